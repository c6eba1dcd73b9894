"""Scenes of the LINEMOD objects, in the format in which nerf-pytorch reads them.

Files and poses are those of Blender scenes (see blender.py), but each frame has a 3x3 `intrinsic_matrix` in pixels in
place of the file's angle of view, and each file has `near` and `far`.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch

from nerf_dfa.errors import UserError
from nerf_dfa.scenes.images import IMAGE_SUFFIXES
from nerf_dfa.scenes.scene import Scene
from nerf_dfa.scenes.split_files import Bounds, Frame, Lens, Table, load_split_files
from nerf_dfa.scenes.tables import existing_image, get, number


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

    def bounds(tables: dict[str, Table]) -> Bounds:
        if near is not None and far is not None:
            return Bounds(near, far)
        nearest = min(number(table.values, "near", table.file) for table in tables.values())
        furthest = max(number(table.values, "far", table.file) for table in tables.values())
        return Bounds(
            float(math.floor(nearest)) if near is None else near,
            float(math.ceil(furthest)) if far is None else far,
            (nearest, furthest),
        )

    def look(frame: Frame) -> tuple[str, Lens]:
        intrinsics = _intrinsics(frame.values, frame.where)
        return _find_image(root, frame.path, frame.where), lambda width, height: intrinsics

    holds = "frames, near and far"
    return load_split_files(root, "LINEMOD", holds, look, bounds, half_res, image_size, testskip)


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
