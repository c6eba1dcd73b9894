"""Captures in the format of instant-ngp and nerfstudio: one transforms.json with cameras and the names of images.

What is read, of the file or of single frames, which win over it:
* `fl_x`, `fl_y`, `cx`, `cy`, `w`, `h` in pixels, or `camera_angle_x`, `camera_angle_y` in radians. Images that are
  not w x h pixels large but of that shape are reduced ones, and the numbers are reduced with them.
* `camera_model` (intrinsics.MODELS) or `is_fisheye`, and the coefficients of its lens `k1`, `k2`, `k3`, `k4`, `p1`,
  `p2`.
* `transform_matrix`: camera-to-world in OpenGL axes. `file_path`: the image, with or without its extension, relative
  to the file; OpenEXR too (exr.py). `mask_path`: a grey image whose black pixels become transparent.
* `train_filenames`, `val_filenames`, `test_filenames`: the split.
* `near`, `far`: depths in the file's units. `aabb_scale`: how far the scene goes on (see `_default_bounds`).

What is not: `applied_transform` and `applied_scale` say what was done to the poses before they were written, as a way
back to COLMAP's world, and change nothing here. `scale` and `offset` map the file's world to instant-ngp's unit cube,
which this program's own placement replaces; they only say where that cube is. `from_na` and `from_mitsuba` mean poses
in other axes and are refused.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from nerf_dfa.errors import UserCaution, UserError
from nerf_dfa.rendering.cameras import Cameras, Lens
from nerf_dfa.rendering.distortion import check_lens
from nerf_dfa.scenes.images import fit_width
from nerf_dfa.scenes.intrinsics import read_intrinsics, read_lens
from nerf_dfa.scenes.photographs import load_photographs, photograph_shape
from nerf_dfa.scenes.placement import World, depth_bounds, facing, placed, unchanged
from nerf_dfa.scenes.scene import Scene, check_bounds
from nerf_dfa.scenes.tables import check_distinct, file_path, number, read_frames, read_json, transform_matrix

FILE = "transforms.json"
SPLITS = ("train", "val", "test")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".PNG", ".JPG", ".JPEG", ".exr", ".EXR")
# instant-ngp's box is a cube with sides of aabb_scale about the middle of the unit cube, x_cube = scale x + offset.
CUBE_SCALE, CUBE_OFFSET = 0.33, 0.5
# How many times as far away aabb_scale can move the end of the scene.
BACKGROUND_REACH = 4.0


class _Frame(NamedTuple):
    """One image and its camera.

    where: file, frame and image, for messages.
    written: file_path in one spelling.
    name: the image, relative to the scene's folder.
    entries: the frame's keys, and the file's where the frame has none.
    """

    where: str
    written: str
    name: str
    mask: Path | None
    pose: Float[Tensor, "3 4"]
    entries: dict[str, Any]


def load_transforms(
    root: str | Path,
    *,
    image_size: int | None = None,
    llffhold: int = 8,
    keep_world: bool = False,
    near: float | None = None,
    far: float | None = None,
) -> Scene:
    """A scene in a folder with transforms.json (the top of this module says what is read of it).

    The world is placed as `placement.placed` says: captures from all around upright, about the origin, with the
    cameras 1 away from it in the root mean square; forward-facing ones as their average camera sees them, without
    NDC.

    Args:
        root: the scene's folder; its name becomes the scene's.
        image_size: width in pixels to average the images down to, height in proportion.
        llffhold: every llffhold-th frame in the order of the images' names is for val and test, the others for train;
            0 keeps all to train on. Not read where the file has a split.
        keep_world: leave the world as it is in the file; up is then its +z.
        near, far: bounds of depth in the scene's units; by default the keys "near" and "far", else found from the
            cameras.

    Raises:
        UserError: a file or key is missing or wrong, named with what was expected.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    if llffhold < 0:
        raise UserError(f"llffhold {llffhold}: expected 0 or more")
    file = root / FILE
    if not file.is_file():
        raise UserError(f"{file}: no such file")
    table = read_json(file, "frames")
    for key in ("from_na", "from_mitsuba"):
        if table.get(key):
            raise UserError(f"{file}: {key} is set, so that the poses are not in OpenGL's axes; convert them first")
    frames, split = _split(_read_frames(file, table), table, file, llffhold)
    paths = [root / frame.name for frame in frames]
    masks = [frame.mask for frame in frames]

    poses = torch.stack([frame.pose for frame in frames])
    world, up = (unchanged(), (0.0, 0.0, 1.0)) if keep_world else _place(poses, file)
    near, far = _bounds(table, file, poses, world.scale, near, far)
    cameras = _cameras(frames, world.poses(poses), paths, file)
    size = (cameras.width, cameras.height)
    if image_size is not None:
        size = fit_width(*size, image_size)
    return Scene(
        name=root.resolve().name,
        images=load_photographs(paths, masks, size),
        cameras=cameras.resized(*size),
        names=tuple(frame.name for frame in frames),
        split=split,
        near=near,
        far=far,
        up=up,
    )


def _read_frames(file: Path, table: dict[str, Any]) -> list[_Frame]:
    """All frames in the order of their images' names, each image there, and there once."""
    frames: list[_Frame] = []
    for index, entry in enumerate(read_frames(table, file)):
        where = f"{file}: frame {index}"
        written = file_path(entry, where)
        where = f"{where} ({written})"
        name = _find_image(file.parent, written, where)
        entries = {key: value for key, value in table.items() if key not in ("frames", "mask_path")} | entry
        for axis in ("x", "y"):  # a frame's own angle of view wins over the file's focal length
            if f"camera_angle_{axis}" in entry and f"fl_{axis}" not in entry:
                entries.pop(f"fl_{axis}", None)
        mask = _find_mask(file.parent, entries, where)
        frames.append(_Frame(where, _spelled(written), name, mask, transform_matrix(entry, where), entries))
    check_distinct((frame.where, file.parent / frame.name) for frame in frames)
    return sorted(frames, key=lambda frame: frame.name)


def _spelled(path: str) -> str:
    r"""A path in one spelling, whatever system wrote it: "./a\b.png" is "a/b.png"."""
    return Path(path.replace("\\", "/")).as_posix()


def _find_image(root: Path, written: str, where: str) -> str:
    """The image that a file_path means, relative to the root."""
    name = _spelled(written)
    known = name.endswith(IMAGE_SUFFIXES)
    for candidate in (name, *(name + suffix for suffix in IMAGE_SUFFIXES if not known)):
        if (root / candidate).is_file():
            return candidate
    tried = "" if known else f", also not with {', '.join(IMAGE_SUFFIXES)} added"
    raise UserError(f"{where}: no such image as {root / name}{tried}")


def _find_mask(root: Path, entries: dict[str, Any], where: str) -> Path | None:
    if entries.get("mask_path") is None:
        return None
    mask = root / _spelled(file_path(entries, where, "mask_path"))
    if not mask.is_file():
        raise UserError(f"{where}: no such mask as {mask}")
    return mask


def _split(
    frames: list[_Frame], table: dict[str, Any], file: Path, llffhold: int
) -> tuple[list[_Frame], dict[str, tuple[int, ...]]]:
    """The frames that stand in a split, and the split."""
    listed = {name: _listed(table, name, frames, file) for name in SPLITS if f"{name}_filenames" in table}
    if listed:
        held_out = listed.get("test", []) + listed.get("val", [])
        train = listed.get("train", [i for i in range(len(frames)) if i not in held_out])
        test = listed.get("test", listed.get("val", []))
        split = {"train": train, "val": listed.get("val", test), "test": test}
        how = "the split into train_filenames, val_filenames and test_filenames"
    else:
        test = list(range(0, len(frames), llffhold)) if llffhold else []
        split = {"train": [i for i in range(len(frames)) if i not in test], "val": test, "test": test}
        how = f"llffhold {llffhold} has held out all of the {len(frames)}"
    if both := set(split["train"]) & set(split["test"]):
        message = (
            f"{file}: {len(both)} images are both for training and for testing, {frames[min(both)].name} the first"
        )
        warnings.warn(message, UserCaution, stacklevel=3)
    if not split["train"]:
        raise UserError(f"{file}: no frame is left to train on after {how}")
    used = sorted(set().union(*split.values()))
    place = {index: position for position, index in enumerate(used)}
    return [frames[i] for i in used], {name: tuple(place[i] for i in views) for name, views in split.items()}


def _listed(table: dict[str, Any], name: str, frames: list[_Frame], file: Path) -> list[int]:
    """The frames that train_filenames, ... names, in the frames' order."""
    key = f"{name}_filenames"
    names = table[key]
    if not isinstance(names, list) or not all(isinstance(entry, str) for entry in names):
        raise UserError(f"{file}: {key} is no list of file names")
    index = {frame.name: i for i, frame in enumerate(frames)} | {frame.written: i for i, frame in enumerate(frames)}
    for entry in names:
        if _spelled(entry) not in index:
            raise UserError(f"{file}: {key} names {entry}, but no frame has that file_path")
    return sorted({index[_spelled(entry)] for entry in names})


def _cameras(frames: list[_Frame], poses: Float[Tensor, "n 3 4"], paths: Sequence[Path], file: Path) -> Cameras:
    """The cameras of images as they are stored, with lenses that have a ray for each pixel."""
    width, height, _ = photograph_shape(paths[0])
    lenses: list[tuple[Lens, tuple[float, ...]]] = []
    intrinsics = []
    for frame, path in zip(frames, paths, strict=True):
        shape = photograph_shape(path)
        if shape[:2] != (width, height):
            raise UserError(
                f"images of one scene must have one size: {paths[0]} is {width}x{height} pixels, "
                f"{path} is {shape[0]}x{shape[1]}"
            )
        lenses.append(read_lens(frame.entries, frame.where))
        if lenses[-1][0] != lenses[0][0]:
            raise UserError(f"{frame.where}: a {lenses[-1][0]} lens, but {frames[0].where} has a {lenses[0][0]} one")
        intrinsics.append(read_intrinsics(frame.entries, width, height, frame.where))
    distortion = torch.tensor([coefficients for _, coefficients in lenses])
    cameras = Cameras(
        poses.float(), torch.tensor(intrinsics), width, height, lenses[0][0], distortion if distortion.any() else None
    )
    check_lens(cameras, str(file))
    return cameras


def _place(poses: Float[Tensor, "n 3 4"], file: Path) -> tuple[World, tuple[float, float, float]]:
    """The scene's world and its upward direction."""
    try:
        up = (0.0, 1.0, 0.0) if facing(poses) == "forward" else (0.0, 0.0, 1.0)
        return placed(poses), up
    except ValueError as error:
        raise UserError(f"{file}: the scene cannot be centred: {error}; set keep_world") from None


def _bounds(
    table: dict[str, Any],
    file: Path,
    poses: Float[Tensor, "n 3 4"],
    scale: float,
    near: float | None,
    far: float | None,
) -> tuple[float, float]:
    """near and far in the scene's units, which are 1 / scale of the file's: as given, of the file, or found."""
    if near is None and "near" in table:
        near = number(table, "near", file) * scale
    if far is None and "far" in table:
        far = number(table, "far", file) * scale
    if near is None or far is None:
        found = _default_bounds(table, file, poses)
        near = found[0] * scale if near is None else near
        far = found[1] * scale if far is None else far
    check_bounds(near, far, False, str(file))
    return near, far


def _default_bounds(table: dict[str, Any], file: Path, poses: Float[Tensor, "n 3 4"]) -> tuple[float, float]:
    """near and far in the file's units: `depth_bounds` of the placed cameras.

    An `aabb_scale` above 1 says that the scene goes on behind what the cameras look at, up to the sides of
    instant-ngp's box. Then far is the depth of the furthest corner of that box, but at most BACKGROUND_REACH times as
    far as otherwise: colmap2nerf writes 32 whatever the scene is, and samples are shared out over the whole depth.
    """
    try:
        world = placed(poses)
        near, far = (depth / world.scale for depth in depth_bounds(world.poses(poses)))
    except ValueError as error:
        raise UserError(f"{file}: near and far are not to be found: {error}; give near and far") from None
    aabb_scale = number(table, "aabb_scale", file, 1.0)
    if aabb_scale > 1:
        far = min(max(far, _depth_of_box(table, file, poses, aabb_scale)), BACKGROUND_REACH * far)
    return near, far


def _depth_of_box(table: dict[str, Any], file: Path, poses: Float[Tensor, "n 3 4"], aabb_scale: float) -> float:
    """Depth of the furthest corner of instant-ngp's box, in the file's units."""
    scale = number(table, "scale", file, CUBE_SCALE)
    offset = table.get("offset", CUBE_OFFSET)
    try:
        offset = torch.tensor(offset, dtype=torch.float64).expand(3)
    except (TypeError, ValueError, RuntimeError):
        raise UserError(f"{file}: offset is {offset!r}; expected one number or three") from None
    if scale <= 0 or not offset.isfinite().all():
        raise UserError(f"{file}: scale {scale:g}, offset {offset.tolist()}; expected a positive and finite numbers")
    side = torch.tensor([-0.5, 0.5], dtype=torch.float64) * aabb_scale
    corners = (0.5 + torch.cartesian_prod(side, side, side) - offset) / scale
    backward, centres = poses[:, :, 2], poses[:, :, 3]
    return ((centres * backward).sum(-1, keepdim=True) - backward @ corners.T).max().item()
