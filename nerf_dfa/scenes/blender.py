"""Scenes in the format of NeRF's synthetic data set: rendered views and transforms_{train,val,test}.json."""

from __future__ import annotations

import math
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from nerf_dfa.errors import UserError
from nerf_dfa.rendering.cameras import Cameras
from nerf_dfa.scenes.images import fit_width, image_shape, load_images
from nerf_dfa.scenes.scene import Scene, check_bounds
from nerf_dfa.scenes.tables import check_splits, file_path, number, read_frames, read_json, transform_matrix

SPLITS = ("train", "val", "test")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
# Where the objects of the synthetic data set lie, as seen from its cameras (NeRF's configuration files).
SYNTHETIC_BOUNDS = (2.0, 6.0)


class _View(NamedTuple):
    where: str
    name: str
    pose: Float[Tensor, "3 4"]
    angle: float


def load_blender(
    root: str | Path,
    *,
    half_res: bool = False,
    image_size: int | None = None,
    testskip: int = 1,
    near: float | None = None,
    far: float | None = None,
) -> Scene:
    """A scene in a folder with transforms_train.json and, where it has any, transforms_{val,test}.json.

    Each file holds `camera_angle_x`, the horizontal field of view in radians, and `frames` with a `file_path`
    (".png" is added if it has no extension) and a `transform_matrix`, camera-to-world in OpenGL axes.

    Args:
        root: the scene's folder; its name becomes the scene's.
        half_res: halve width and height.
        image_size: width in pixels to average the images down to, height in proportion.
        testskip: keep every testskip-th view of val and test; 0 and 1 keep all.
        near, far: bounds of depth; by default the training file's keys "near" and "far", else 2 and 6.

    Raises:
        UserError: a file or key is missing or wrong, named with what was expected, or an image stands in two frames of
            a split or in train and test.
    """
    root = Path(root).expanduser()
    if half_res and image_size is not None:
        raise UserError("half_res and image_size both set the size of the images; choose one")
    if testskip < 0:
        raise UserError(f"testskip {testskip}: expected 0 or more")
    tables = _read_tables(root)

    views: list[_View] = []
    split: dict[str, tuple[int, ...]] = dict.fromkeys(SPLITS, ())
    for name, (file, table) in tables.items():
        start = len(views)
        views += _read_views(file, table, 1 if name == "train" else max(testskip, 1))
        split[name] = tuple(range(start, len(views)))
    check_splits({name: [(views[i].where, root / views[i].name) for i in split[name]] for name in SPLITS})

    file, table = tables["train"]
    near = near if near is not None else number(table, "near", file, SYNTHETIC_BOUNDS[0])
    far = far if far is not None else number(table, "far", file, SYNTHETIC_BOUNDS[1])
    check_bounds(near, far, False, str(file))

    paths = [root / view.name for view in views]
    width, height, _ = image_shape(paths[0])
    if half_res:
        image_size = width // 2
    size = (width, height) if image_size is None else fit_width(width, height, image_size)
    cameras = Cameras(
        poses=torch.stack([view.pose for view in views]).float(),
        intrinsics=torch.tensor([_intrinsics(view.angle, width, height) for view in views]),
        width=width,
        height=height,
    )
    return Scene(
        name=root.resolve().name,
        images=load_images(paths, size),
        cameras=cameras.resized(*size),
        names=tuple(view.name for view in views),
        split=split,
        near=near,
        far=far,
    )


def _intrinsics(angle: float, width: int, height: int) -> list[float]:
    focal = 0.5 * width / math.tan(0.5 * angle)
    return [focal, focal, width / 2, height / 2]


def _read_tables(root: Path) -> dict[str, tuple[Path, dict[str, Any]]]:
    """For each split that is there, its file and what the file says."""
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    files = {name: root / f"transforms_{name}.json" for name in SPLITS}
    if not files["train"].is_file():
        raise UserError(f"{files['train']}: no such file; a Blender scene needs it")
    holds = "camera_angle_x and frames"
    return {name: (file, read_json(file, holds)) for name, file in files.items() if file.is_file()}


def _read_views(file: Path, table: dict[str, Any], skip: int) -> list[_View]:
    """Every skip-th frame of one file, checked."""
    angle = number(table, "camera_angle_x", file)
    if not 0 < angle < math.pi:
        raise UserError(f"{file}: camera_angle_x is {angle:g}; expected radians between 0 and pi")
    frames = read_frames(table, file)
    views = []
    for index in range(0, len(frames), skip):
        where = f"{file}: frame {index}"
        path = file_path(frames[index], where)
        where = f"{where} ({path})"
        views.append(_View(where, _image_name(path), transform_matrix(frames[index], where), angle))
    return views


def _image_name(path: str) -> str:
    """The file that a file_path means, relative to the scene's folder."""
    name = str(PurePosixPath(path))
    return name if name.lower().endswith(IMAGE_SUFFIXES) else f"{name}.png"
