"""Scenes of the LINEMOD objects, in the format in which nerf-pytorch reads them.

Files and poses are those of Blender scenes (see blender.py), but each frame has a 3x3 `intrinsic_matrix` in pixels in
place of the file's angle of view, and each file has `near` and `far`.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from nerf_dfa.errors import UserError
from nerf_dfa.rendering.cameras import Cameras
from nerf_dfa.scenes.images import IMAGE_SUFFIXES, fit_width, image_shape, load_images
from nerf_dfa.scenes.scene import Scene, check_bounds
from nerf_dfa.scenes.tables import (
    check_splits,
    existing_image,
    file_path,
    get,
    number,
    read_frames,
    read_json,
    transform_matrix,
)

SPLITS = ("train", "val", "test")
HOLDS = "frames, near and far"


class _View(NamedTuple):
    where: str
    name: str
    pose: Float[Tensor, "3 4"]
    intrinsics: list[float]


def is_linemod(root: Path) -> bool:
    """Whether the folder has a transforms_train.json whose first frame has an intrinsic_matrix."""
    try:
        table = json.loads((root / "transforms_train.json").read_text(encoding="utf-8"))
        return "intrinsic_matrix" in table["frames"][0]
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return False


def load_linemod(
    root: str | Path,
    *,
    half_res: bool = False,
    image_size: int | None = None,
    testskip: int = 1,
    near: float | None = None,
    far: float | None = None,
) -> Scene:
    """A scene in a folder with transforms_train.json and transforms_{val,test}.json.

    A `file_path` is absolute, or relative to the folder, with or without its extension. Absolute ones that are no
    longer there, as in a scene that came from another computer, are looked for in the folder by as much of their end
    as is found there.

    Args:
        root: the scene's folder; its name becomes the scene's.
        half_res: halve width and height.
        image_size: width in pixels to average the images down to, height in proportion.
        testskip: keep every testskip-th view of val and test; 0 and 1 keep all.
        near, far: bounds of depth; by default the least `near` of the files rounded down to an integer and the
            greatest `far` rounded up, as nerf-pytorch does (of train and test; here of val too).

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
        views += _read_views(root, file, table, 1 if name == "train" else max(testskip, 1))
        split[name] = tuple(range(start, len(views)))
    check_splits({name: [(views[i].where, root / views[i].name) for i in split[name]] for name in SPLITS})

    depth_range = None
    if near is None or far is None:
        nearest = min(number(table, "near", file) for file, table in tables.values())
        furthest = max(number(table, "far", file) for file, table in tables.values())
        near = float(math.floor(nearest)) if near is None else near
        far = float(math.ceil(furthest)) if far is None else far
        depth_range = (nearest, furthest)
    check_bounds(near, far, False, str(tables["train"][0]))

    paths = [root / view.name for view in views]
    width, height, _ = image_shape(paths[0])
    if half_res:
        image_size = width // 2
    size = (width, height) if image_size is None else fit_width(width, height, image_size)
    cameras = Cameras(
        poses=torch.stack([view.pose for view in views]).float(),
        intrinsics=torch.tensor([view.intrinsics for view in views]),
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
        depth_range=depth_range,
    )


def _read_tables(root: Path) -> dict[str, tuple[Path, dict[str, Any]]]:
    """For each split that is there, its file and what the file says."""
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    files = {name: root / f"transforms_{name}.json" for name in SPLITS}
    if not files["train"].is_file():
        raise UserError(f"{files['train']}: no such file; a LINEMOD scene needs it")
    return {name: (file, read_json(file, HOLDS)) for name, file in files.items() if file.is_file()}


def _read_views(root: Path, file: Path, table: dict[str, Any], skip: int) -> list[_View]:
    """Every skip-th frame of one file, checked."""
    frames = read_frames(table, file)
    views: list[_View] = []
    for index in range(0, len(frames), skip):
        where = f"{file}: frame {index}"
        path = file_path(frames[index], where)
        where = f"{where} ({path})"
        name = _find_image(root, path, where)
        views.append(_View(where, name, transform_matrix(frames[index], where), _intrinsics(frames[index], where)))
    return views


def _intrinsics(frame: dict[str, Any], where: str) -> list[float]:
    """fx, fy, cx, cy of a frame's intrinsic_matrix.

    Such matrices count pixels from the centre of the first (nerf-pytorch's ray of column j goes through
    (j - cx) / fx), this program from its corner: half a pixel is added to cx and cy.
    """
    rows = get(frame, "intrinsic_matrix", where)
    try:
        matrix = torch.tensor(rows, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        matrix = torch.empty(0)
    if matrix.shape != (3, 3) or not matrix.isfinite().all():
        raise UserError(f"{where}: intrinsic_matrix is not 3 rows of 3 finite numbers")
    (fx, skew, cx), (zero, fy, cy), last = matrix.tolist()
    if min(fx, fy) <= 0 or skew or zero or last != [0, 0, 1]:
        raise UserError(f"{where}: intrinsic_matrix is not [fx 0 cx], [0 fy cy], [0 0 1] with fx and fy above 0")
    return [fx, fy, cx + 0.5, cy + 0.5]


def _find_image(root: Path, path: str, where: str) -> str:
    """The image that a file_path means, relative to the scene's folder or absolute."""
    if name := existing_image(root, path, IMAGE_SUFFIXES):
        return name
    raise UserError(f"{where}: no such image as {root / path}, also not with {', '.join(IMAGE_SUFFIXES)} added")
