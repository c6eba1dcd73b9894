"""Scenes of transforms_{train,val,test}.json, one file for each split: what Blender's and LINEMOD's have in common."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from nerf_dfa.errors import UserError
from nerf_dfa.rendering.cameras import Cameras
from nerf_dfa.scenes.images import fit_width, image_shape, load_images
from nerf_dfa.scenes.scene import Scene, check_bounds
from nerf_dfa.scenes.tables import check_splits, file_path, read_frames, read_json, transform_matrix

SPLITS = ("train", "val", "test")


class Table(NamedTuple):
    """A file, and what it says."""

    file: Path
    values: dict[str, Any]


class Bounds(NamedTuple):
    """near and far, and the range of depths that they come from, if they are wider than that."""

    near: float
    far: float
    range: tuple[float, float] | None = None


class Frame(NamedTuple):
    """A view in a file: its place in words, for messages, and its file_path."""

    table: Table
    values: dict[str, Any]
    where: str
    path: str


# The image's name relative to the scene's folder, and from the images' width and height fx, fy, cx and cy in pixels.
Lens = Callable[[int, int], list[float]]
Look = Callable[[Frame], tuple[str, Lens]]


class _View(NamedTuple):
    where: str
    name: str
    pose: Float[Tensor, "3 4"]
    lens: Lens


def load_split_files(
    root: Path,
    kind: str,
    holds: str,
    look: Look,
    bounds: Callable[[dict[str, Table]], Bounds],
    half_res: bool,
    image_size: int | None,
    testskip: int,
) -> Scene:
    """The scene in a folder.

    kind, holds: the format and what its files hold, for messages. look: what the format says of a frame. bounds: what
    it says of the depths, by the splits that there are. half_res, image_size, testskip: see `load_blender`.

    Raises:
        UserError: a file or key is missing or wrong, named with what was expected, or an image stands in two frames of
            a split or in train and test.
    """
    if half_res and image_size is not None:
        raise UserError("half_res and image_size both set the size of the images; choose one")
    if testskip < 0:
        raise UserError(f"testskip {testskip}: expected 0 or more")
    tables = _read_tables(root, kind, holds)

    views: list[_View] = []
    split: dict[str, tuple[int, ...]] = dict.fromkeys(SPLITS, ())
    for name, table in tables.items():
        start = len(views)
        views += _read_views(table, look, 1 if name == "train" else max(testskip, 1))
        split[name] = tuple(range(start, len(views)))
    check_splits({name: [(views[i].where, root / views[i].name) for i in split[name]] for name in SPLITS})
    near, far, depth_range = bounds(tables)
    check_bounds(near, far, False, str(tables["train"].file))

    paths = [root / view.name for view in views]
    width, height, _ = image_shape(paths[0])
    if half_res:
        image_size = width // 2
    size = (width, height) if image_size is None else fit_width(width, height, image_size)
    cameras = Cameras(
        poses=torch.stack([view.pose for view in views]).float(),
        intrinsics=torch.tensor([view.lens(width, height) for view in views]),
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


def _read_tables(root: Path, kind: str, holds: str) -> dict[str, Table]:
    """For each split that is there, its file and what the file says."""
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    files = {name: root / f"transforms_{name}.json" for name in SPLITS}
    if not files["train"].is_file():
        raise UserError(f"{files['train']}: no such file; a {kind} scene needs it")
    return {name: Table(file, read_json(file, holds)) for name, file in files.items() if file.is_file()}


def _read_views(table: Table, look: Look, skip: int) -> list[_View]:
    """Every skip-th frame of one file, checked."""
    frames = read_frames(table.values, table.file)
    views = []
    for index in range(0, len(frames), skip):
        where = f"{table.file}: frame {index}"
        path = file_path(frames[index], where)
        where = f"{where} ({path})"
        name, lens = look(Frame(table, frames[index], where, path))
        views.append(_View(where, name, transform_matrix(frames[index], where), lens))
    return views
