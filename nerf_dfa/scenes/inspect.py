"""What is in a scene's folder and what is wrong with it: python -m nerf_dfa.scenes.inspect PATH [--out PLOT.png]"""

from __future__ import annotations

import argparse
import math
import re
import shlex
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from nerf_dfa.errors import UserError
from nerf_dfa.rendering.cameras import Cameras
from nerf_dfa.scenes.colmap import LeftOut
from nerf_dfa.scenes.frusta import draw_cameras
from nerf_dfa.scenes.images import image_shape
from nerf_dfa.scenes.load import FORMATS, load_scene, recognise
from nerf_dfa.scenes.paths import nearest_to_axes
from nerf_dfa.scenes.placement import directions, facing
from nerf_dfa.scenes.scene import Scene
from nerf_dfa.scenes.survey import (
    COMFORTABLE_WIDTH,
    KINDS,
    Picture,
    images_in,
    list_views,
    look_at_images,
    suitable_factor,
    without_pose,
)
from nerf_dfa.scenes.tables import existing_image

# What train.py takes where it is not told.
DEFAULT_FACTOR = 8
SUGGESTED_WIDTH = 800


class Inspection(NamedTuple):
    """What was found.

    scene: None if it does not load.
    poses: the sound ones of those that the folder lists, in the file's world.
    lines: name and value of each fact.
    problems: one line each.
    """

    scene: Scene | None
    poses: Float[Tensor, "n 3 4"]
    lines: list[tuple[str, str]]
    problems: list[str]


def inspect_scene(
    root: Path, dataset_type: str = "auto", shape: str | None = None, factor: int | None = None
) -> Inspection:
    """Looks at a scene's folder, whether it loads or not.

    shape: which object of a DeepVoxels folder. factor: that of the images, where the format has one (None: the one
    that suits them).

    Raises:
        UserError: there is no such folder or format, or the format has no factor.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    if dataset_type != "auto" and dataset_type not in FORMATS:
        raise UserError(f"dataset_type {dataset_type}: no such format; choose auto, {', '.join(FORMATS)}")
    name, scene, options, problems = dataset_type, None, {}, []
    try:
        name = recognise(root) if dataset_type == "auto" else dataset_type
        options = _image_options(root, name)
    except UserError as error:
        problems.append(str(error))
    read = FORMATS[name].options if name in FORMATS else ()
    if factor is not None:
        if "factor" not in read:
            raise UserError(f"--factor has no effect here: {name} scenes do not read it; leave it out")
        options["factor"] = factor
    if shape is not None:
        options["shape"] = shape
    views, wrong = list_views(root, _image_folder(root, options.get("factor", DEFAULT_FACTOR)))
    poses = torch.stack([torch.empty(3, 4).double(), *(view.pose for view in views if view.pose is not None)])[1:]
    if len(poses) > 1 and facing(poses) == "around" and {"spherify", "ndc"} <= set(read):
        options |= {"spherify": True, "ndc": False}
    if name in FORMATS:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                scene = load_scene(root, name, **options)
            except UserError as error:
                problems.append(str(error))
        for warning in said:
            caution = warning.message
            alone = caution.images if isinstance(caution, LeftOut) else None
            problems += [str(caution)] if alone is None else [without_pose(root, image) for image in alone]
    listed = [view.name for view in views if view.name is not None]
    if scene is not None:  # the loader knows better where the images are; the lists may have some that it leaves out
        names = [existing_image(root, name, ()) or name for name in scene.names]
        listed = [*names, *(image for image in listed if (root / image).is_file())]
    pictures, damaged = look_at_images(root, list(dict.fromkeys(listed)))
    problems = list(dict.fromkeys(problems + wrong + damaged))

    sign = f"{name} ({FORMATS[name].sign})" if name in FORMATS else "of no known format"
    lines = [("scene", f"{root.resolve().name}, {sign}"), ("images", _describe_images(list(pictures.values())))]
    if scene is not None:
        lines += _describe_scene(scene, read)
        lines.append(("train", shlex.join(_command(root, dataset_type, options, read, scene))))
    elif len(poses):
        lines += [("positions", _describe_positions(poses)), ("facing", _describe_facing(poses))]
    return Inspection(scene, poses, lines, problems)


def _image_options(root: Path, name: str) -> dict[str, Any]:
    """The factor that suits the folders of images, where it is not the default."""
    if "factor" not in FORMATS[name].options or (root / f"images_{DEFAULT_FACTOR}").is_dir():
        return {}
    factors = [int(m[1]) for path in root.glob("images_*") if (m := re.fullmatch(r"images_(\d+)", path.name))]
    if factors:
        return {"factor": max(factors)}
    originals = images_in(root, root / "images")
    try:
        factor = suitable_factor(image_shape(root / originals[0])[0]) if originals else DEFAULT_FACTOR
    except UserError:  # damaged: found again below
        factor = DEFAULT_FACTOR
    return {"factor": factor} if factor != DEFAULT_FACTOR else {}


def _image_folder(root: Path, factor: int) -> str:
    return f"images_{factor}" if (root / f"images_{factor}").is_dir() else "images"


def _describe_images(pictures: list[Picture]) -> str:
    if not pictures:
        return "none that can be read"
    sizes = Counter((p.width, p.height) for p in pictures).most_common()
    size = " and ".join(f"{w}x{h}" for (w, h), _ in sizes[:2]) + (" and other" if len(sizes) > 2 else "")
    kinds = " and ".join(KINDS[channels] for channels in sorted({p.channels for p in pictures}))
    megabytes = sum(p.width * p.height * p.channels for p in pictures) / 1e6
    return f"{len(pictures)} of {size} pixels, {kinds}, {megabytes:,.0f} MB decoded"


def _describe_scene(scene: Scene, options: Sequence[str]) -> list[tuple[str, str]]:
    poses = scene.cameras.poses.double()
    split = ", ".join(f"{len(views)} {name}" for name, views in scene.split.items())
    if scene.split["val"] and scene.split["val"] == scene.split["test"]:
        split += ": the same views"
    unit = "of normalised device coordinates" if scene.ndc else "in depth along the axis"
    bounds = f"near {scene.near:.4g}, far {scene.far:.4g} {unit}"
    if scene.depth_range is not None:
        bounds += f"; the scene's depths {scene.depth_range[0]:.4g} to {scene.depth_range[1]:.4g}"
    if scene.ndc:
        ndc = "yes: the cameras look one way and the format offers it"
    elif "ndc" not in options:
        ndc = "no: scenes of this format do not use it"
    elif facing(poses) == "around":
        ndc = "no: the cameras stand around the scene"
    else:
        ndc = "no: though the cameras look one way, the loader found against it"
    return [
        ("cameras", _describe_lens(scene.cameras)),
        ("split", split),
        ("bounds", bounds),
        ("positions", _describe_positions(poses)),
        ("facing", _describe_facing(poses)),
        ("NDC", ndc),
    ]


def _describe_lens(cameras: Cameras) -> str:
    fx, fy, _, _ = cameras.intrinsics.double().unbind(-1)
    if cameras.lens == "fisheye":  # equidistant: the angle is the distance from the centre over the focal length
        across, down = (math.degrees(n / f.median().item()) for n, f in ((cameras.width, fx), (cameras.height, fy)))
    else:
        across, down = (
            2 * math.degrees(math.atan(0.5 * n / f.median().item()))
            for n, f in ((cameras.width, fx), (cameras.height, fy))
        )
    lens = "pinhole" if cameras.lens == "perspective" and cameras.distortion is None else cameras.lens
    distortion = "no distortion"
    if cameras.distortion is not None:
        names = ("k1", "k2", "k3", "k4", "p1", "p2")
        values = dict(zip(names, cameras.distortion[0].tolist(), strict=True))
        distortion = "distortion " + ", ".join(f"{name} {value:.4g}" for name, value in values.items() if value)
    alike = ((fx - fy).abs() <= 1e-4 * fx).all()
    focal = _span(fx) if alike else f"{_span(fx)} across and {_span(fy)} down"
    size = f"{cameras.width}x{cameras.height}"
    angles = f"{across:.1f} x {down:.1f} degrees"
    return f"{lens}, focal length {focal} pixels at {size}, field of view {angles}, {distortion}"


def _span(values: Float[Tensor, " n"]) -> str:
    low, high = values.min().item(), values.max().item()
    return f"{low:.5g}" if high - low <= 1e-4 * high else f"{low:.5g} to {high:.5g}"


def _describe_positions(poses: Float[Tensor, "n 3 4"]) -> str:
    centres = poses[:, :, 3]
    low, high = centres.min(0).values.tolist(), centres.max(0).values.tolist()
    spans = ", ".join(f"{a} {lo:.3g} to {hi:.3g}" for a, lo, hi in zip("xyz", low, high, strict=True))
    meeting = nearest_to_axes(poses)
    place = ", ".join(f"{value + 0:.3g}" for value in (meeting * 1e4).round().div(1e4).tolist())
    distances = (centres - meeting).norm(dim=1)
    return f"{spans}; {_span(distances)} from ({place}), the point nearest to all axes"


def _describe_facing(poses: Float[Tensor, "n 3 4"]) -> str:
    """The verdict of `placement.facing` and the numbers that it judges by."""
    axes, found = normalize(poses[:, :, 2], dim=1), directions(poses)
    widest = math.degrees(math.acos((axes @ normalize(axes.mean(0), dim=0)).min().clamp(-1, 1).item()))
    verdict = "forward" if facing(poses) == "forward" else "around (360 degrees)"
    return (
        f"{verdict}: the mean viewing direction has length {found.length:.3f} ({found.least:g} and more is forward, as "
        f"the axes meet {'in front of' if found.converging else 'behind'} the cameras); the axes turn up to "
        f"{widest:.0f} degrees from it"
    )


def _command(root: Path, dataset_type: str, options: dict[str, Any], read: Sequence[str], scene: Scene) -> list[str]:
    """A command line of train.py that suits the scene."""
    config = f"configs/fast/{'forward' if scene.ndc else 'around'}.txt"
    command = ["python", "train.py", "--config", config, "--datadir", str(root)]
    if dataset_type != "auto":
        command += ["--dataset_type", dataset_type]
    if scene.images.shape[-1] == 4 and any(bool((image[..., 3] < 255).any()) for image in scene.images):
        command.append("--white_bkgd")
    if "factor" in options:
        command += ["--factor", str(options["factor"])]
    if "shape" in options:
        command += ["--shape", options["shape"]]
    if options.get("spherify"):
        command += ["--no_ndc", "--spherify"]
    if "image_size" in read and scene.cameras.width > COMFORTABLE_WIDTH:
        command += ["--image_size", str(SUGGESTED_WIDTH)]
    return command


def draw(found: Inspection, file: Path) -> None:
    """Draws the cameras: the scene's if it loads, else the sound ones among the folder's poses, with a lens assumed.

    Raises:
        UserError: there are no cameras, or the file cannot be written.
    """
    scene = found.scene
    if scene is not None:
        depths = scene.depth_range if scene.ndc else (scene.near, scene.far)
        arguments = (scene.cameras, dict(scene.split), scene.up, depths, found.lines[0][1])
    else:
        poses = found.poses
        if not len(poses):
            raise UserError("there is no camera to draw")
        lens = torch.tensor([50.0, 50.0, 25.0, 20.0]).expand(len(poses), 4)
        cameras = Cameras(poses.float(), lens, 50, 40)
        arguments = (cameras, {"read": range(len(poses))}, (0.0, 0.0, 1.0), None, "the scene does not load: poses only")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        draw_cameras(file, *arguments)
    except (OSError, ValueError) as error:  # ValueError: no file name in it, as in "."
        raise UserError(f"{file}: cannot be written ({getattr(error, 'strerror', None) or error})") from error


def main(argv: Sequence[str] | None = None) -> int:
    """0: the scene loads and nothing is wrong; 1: there are problems; 2: nothing could be looked at."""
    parser = argparse.ArgumentParser(
        prog="python -m nerf_dfa.scenes.inspect",
        description="Say what is in a scene's folder, what is wrong with it and how to train on it; draw its cameras.",
    )
    parser.add_argument("path", help="the scene's folder")
    parser.add_argument("--out", help="PNG of the cameras (default: renders/NAME_cameras.png)")
    parser.add_argument("--dataset_type", default="auto", choices=["auto", *FORMATS], help="format of the scene")
    parser.add_argument("--shape", help="which object of a DeepVoxels folder")
    parser.add_argument("--factor", type=int, help="of LLFF and COLMAP images [the one that suits them]")
    options = parser.parse_args(argv)
    root = Path(options.path).expanduser()
    try:
        found = inspect_scene(root, options.dataset_type, options.shape, options.factor)
    except UserError as error:
        print(f"inspect: error: {error}", file=sys.stderr)
        return 2
    file = Path(options.out or Path("renders") / f"{root.resolve().name}_cameras.png")
    try:
        draw(found, file)
        picture = str(file)
    except UserError as error:
        picture = f"not drawn: {error}"
    problems = found.problems
    for name, value in [*found.lines, ("picture", picture), ("problems", str(len(problems) or "none"))]:
        print(f"{name:<10} {value}")
    for problem in problems:
        print(f"  {problem}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
