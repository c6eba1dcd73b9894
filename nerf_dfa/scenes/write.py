"""Writing a Scene to disk in the formats that others read, and so turning one format into another.

    python -m nerf_dfa.scenes.write SCENE OUT --format blender|llff|transforms [--factor N]

What a format cannot hold is refused, never dropped: Blender has one focal length and a centred pinhole, LLFF these
for each view and every 8th view for testing, transforms.json everything but NDC.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from nerf_dfa.errors import UserError, plain_cautions
from nerf_dfa.rendering.cameras import Cameras
from nerf_dfa.scenes.load import FORMATS, load_scene, recognise
from nerf_dfa.scenes.scene import Scene

SPLITS = ("train", "val", "test")
LLFF_HOLD = 8
WHOLE = "--format transforms keeps every view in its place"
# The order of a lens's coefficients in Cameras.distortion, by their names in transforms.json.
COEFFICIENTS = ("k1", "k2", "k3", "k4", "p1", "p2")


def write_scene(scene: Scene, folder: str | Path, form: str) -> None:
    """Writes images (PNG, as they are) and cameras to a new folder, whole or not at all.

    The world is written as it is: load it with keep_world, and an LLFF scene with near and far besides, to have the
    same rays again. form: a key of WRITERS.

    Raises:
        UserError: the folder exists, cannot be written, or the format cannot hold the scene.
    """
    folder = Path(folder)
    if form not in WRITERS:
        raise UserError(f"format {form}: can write {', '.join(WRITERS)}")
    if scene.ndc:
        raise UserError(f"{scene.name} is in normalised device coordinates; load it with no_ndc to write it")
    if scene.cameras.pixel_offset != 0.5:
        raise UserError(f"{scene.name}: its rays do not pass the pixels' centres, as these formats have it")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists; choose a new folder")
    try:
        folder.absolute().parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.absolute().parent) as temporary:
            made = Path(temporary) / "scene"
            made.mkdir()
            WRITERS[form](scene, made)
            if folder.is_dir():
                folder.rmdir()  # an empty one: some systems do not rename onto a folder
            made.rename(folder)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}") from error


def write_blender(scene: Scene, folder: Path) -> None:
    """transforms_{train,val,test}.json with a folder of images each."""
    focal = _one_focal_length(scene, "Blender")
    for split in SPLITS:
        views = list(scene.split[split])
        if not views and split != "train":
            continue
        names = [f"{split}/r_{i:04d}.png" for i in range(len(views))]
        _write_images(scene, folder, dict(zip(names, views, strict=True)))
        table = {
            "camera_angle_x": 2 * math.atan(scene.cameras.width / (2 * focal)),
            "near": scene.near,
            "far": scene.far,
            "frames": [
                {"file_path": f"./{name.removesuffix('.png')}", "transform_matrix": _matrix(scene.cameras, view)}
                for name, view in zip(names, views, strict=True)
            ],
        }
        _write_json(folder / f"transforms_{split}.json", table)


def write_transforms(scene: Scene, folder: Path) -> None:
    """transforms.json of nerfstudio, with every view's own lens."""
    cameras = scene.cameras
    used = sorted({view for views in scene.split.values() for view in views})
    names = {view: f"images/{view:05d}.png" for view in used}
    _write_images(scene, folder, {name: view for view, name in names.items()})
    frames = []
    for view in used:
        keys = dict(zip(("fl_x", "fl_y", "cx", "cy"), cameras.intrinsics[view].tolist(), strict=True))
        if cameras.distortion is not None:
            keys |= dict(zip(COEFFICIENTS, cameras.distortion[view].tolist(), strict=True))
        frames.append({"file_path": names[view], **keys, "transform_matrix": _matrix(cameras, view)})
    bent = cameras.distortion is not None
    table = {
        "camera_model": {"fisheye": "OPENCV_FISHEYE"}.get(cameras.lens, "OPENCV") if bent else "PINHOLE",
        "w": cameras.width,
        "h": cameras.height,
        "near": scene.near,
        "far": scene.far,
        **{f"{split}_filenames": [names[view] for view in scene.split[split]] for split in SPLITS},
        "frames": frames,
    }
    _write_json(folder / "transforms.json", table)


def write_llff(scene: Scene, folder: Path) -> None:
    """poses_bounds.npy and a folder of images, in which every 8th is one for testing."""
    cameras = scene.cameras
    _pinholes(scene, "LLFF")
    train, test = list(scene.split["train"]), list(scene.split["test"])
    lost = len(set(scene.split["val"]) - set(test))
    if lost:
        raise UserError(
            f"{scene.name}: LLFF validates on the test views, and would lose {lost} views for validation; {WHOLE}"
        )
    held = math.ceil((len(train) + len(test)) / LLFF_HOLD)
    if len(test) != held:
        raise UserError(
            f"{scene.name}: LLFF holds out every {LLFF_HOLD}th view, which are {held} of the {len(train)} + "
            f"{len(test)} views for training and testing; {WHOLE}"
        )
    waiting = {True: iter(test), False: iter(train)}
    order = [next(waiting[i % LLFF_HOLD == 0]) for i in range(len(train) + len(test))]
    _write_images(scene, folder, {f"images/{i:05d}.png": view for i, view in enumerate(order)})
    rows = []
    for view in order:
        right, up, back, centre = cameras.poses[view].double().unbind(-1)
        size = torch.tensor([cameras.height, cameras.width, cameras.intrinsics[view, 0]], dtype=torch.float64)
        matrix = torch.stack([-up, right, back, centre, size], dim=-1)
        rows.append(torch.cat([matrix.flatten(), torch.tensor([scene.near, scene.far], dtype=torch.float64)]))
    np.save(folder / "poses_bounds.npy", torch.stack(rows).numpy())


WRITERS: dict[str, Callable[[Scene, Path], None]] = {
    "blender": write_blender,
    "llff": write_llff,
    "transforms": write_transforms,
}


def _pinholes(scene: Scene, form: str) -> None:
    """UserError unless every lens is a centred pinhole with square pixels."""
    cameras = scene.cameras
    fx, fy, cx, cy = cameras.intrinsics.double().unbind(-1)
    centred = (cx - cameras.width / 2).abs().max() < 1e-3 and (cy - cameras.height / 2).abs().max() < 1e-3
    if cameras.distortion is not None or not centred or (fx / fy - 1).abs().max() > 1e-5:
        raise UserError(f"{scene.name}: {form} holds centred pinholes with square pixels alone; write transforms")


def _one_focal_length(scene: Scene, form: str) -> float:
    """The focal length of all views in pixels, or UserError."""
    _pinholes(scene, form)
    focal = scene.cameras.intrinsics[:, 0].double()
    if (focal / focal[0] - 1).abs().max() > 1e-5:
        raise UserError(f"{scene.name}: {form} has one focal length for all views; write llff or transforms")
    return focal[0].item()


def _matrix(cameras: Cameras, view: int) -> list[list[float]]:
    return [*cameras.poses[view].tolist(), [0.0, 0.0, 0.0, 1.0]]


def _write_json(path: Path, table: dict[str, Any]) -> None:
    path.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


def _write_images(scene: Scene, folder: Path, views: dict[str, int]) -> None:
    """The images of these views, by file name."""
    for parent in {(folder / name).parent for name in views}:
        parent.mkdir(parents=True, exist_ok=True)

    def save(item: tuple[str, int]) -> None:
        Image.fromarray(scene.images[item[1]].numpy()).save(folder / item[0])

    with ThreadPoolExecutor() as pool:
        list(pool.map(save, views.items()))


def _as_it_is(arguments: argparse.Namespace) -> dict[str, Any]:
    """Options by which the scene's format leaves world and images as they are in its files, those that it has."""
    root = Path(arguments.scene).expanduser()
    name = arguments.dataset_type
    if name == "auto" and root.is_dir():
        name = recognise(root)
    known = FORMATS[name].options if name in FORMATS else ()
    if arguments.factor is not None and "factor" not in known:
        raise UserError(f"--factor has no effect on {name} scenes; leave it out")
    if arguments.factor is not None and arguments.factor < 1:
        raise UserError(f"--factor {arguments.factor}: it has to be at least 1")
    wanted = {"ndc": False, "keep_world": True, "factor": arguments.factor or 1}
    return {key: value for key, value in wanted.items() if key in known}


@plain_cautions("write")
def main(argv: list[str] | None = None) -> int:
    """Runs the program; returns its exit status: 0, or 2 for a user's mistake (one line)."""
    parser = argparse.ArgumentParser(prog="python -m nerf_dfa.scenes.write", description=__doc__.partition("\n")[0])
    parser.add_argument("scene", help="folder of a scene in any format")
    parser.add_argument("out", help="new folder")
    parser.add_argument("--format", required=True, choices=WRITERS)
    parser.add_argument("--dataset_type", default="auto", help="format of the scene (default: look at the files)")
    parser.add_argument("--factor", type=int, help="downsampling of LLFF and COLMAP images (default: none)")
    arguments = parser.parse_args(argv)
    try:
        scene = load_scene(arguments.scene, arguments.dataset_type, **_as_it_is(arguments))
        write_scene(scene, arguments.out, arguments.format)
    except UserError as error:
        print(f"write: error: {error}", file=sys.stderr)
        return 2
    print(f"{arguments.out}: {len(scene.images)} views of {scene.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
