"""Captures in COLMAP's own format: a sparse model and the folder of the photographs that it was made from."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nerf_dfa.errors import UserCaution, UserError
from nerf_dfa.rendering.cameras import Cameras, Lens
from nerf_dfa.rendering.distortion import check_lens
from nerf_dfa.scenes.colmap_model import SparseModel, holds_model, read_model
from nerf_dfa.scenes.colmap_records import ModelCamera
from nerf_dfa.scenes.images import IMAGE_SUFFIXES, image_folder, load_images, loaded_size
from nerf_dfa.scenes.llff import hold_out, recentred, scaled
from nerf_dfa.scenes.placement import centred, depth_bounds, facing
from nerf_dfa.scenes.scene import Scene, check_ahead, check_bounds

# Depths of the points that an image sees, in percent of their number, between which the scene lies (LLFF,
# llff/poses/pose_utils.py, which writes them to poses_bounds.npy).
DEPTH_PERCENTILES = (0.1, 99.9)
RANGE_SPREAD = 2.0  # how many times nearer or further than in the median image it may begin or end
# Names that a message lists.
MOST_LISTED = 5


class LeftOut(UserCaution):
    """Images, named relative to the scene's folder, that lie among those of the model without being in it."""

    def __init__(self, message: str, images: Sequence[str]) -> None:
        super().__init__(message)
        self.images = tuple(images)


class _Placed(NamedTuple):
    """Poses in the scene's world, and its bounds: default near and far, nearest and furthest depth."""

    poses: Float[Tensor, "n 3 4"]
    bounds: tuple[float, float]
    depth_range: tuple[float, float]
    up: tuple[float, float, float]


def load_colmap(
    root: str | Path,
    *,
    factor: int | None = 8,
    llffhold: int = 8,
    ndc: bool = True,
    image_size: int | None = None,
    bd_factor: float | None = 0.75,
    keep_world: bool = False,
    near: float | None = None,
    far: float | None = None,
) -> Scene:
    """A scene of photographs and a COLMAP model in sparse/0 (or sparse, or the folder itself), text or binary.

    Where cameras look one way (`placement.facing`), the world is placed as in LLFF's format: the nearest depth is
    1 / bd_factor, the average camera sits in the origin and looks along -z. Where they stand around something, it is
    placed by `placement.centred`: upright, about the origin, with cameras at distance 4 in the root mean square.

    Of several models in sparse the one with most images is read. Images that it has not registered are left out.
    Both are said in a warning. Views are in the order of their names.

    Args:
        root: the scene's folder; its name becomes the scene's.
        factor, image_size: as for `load_llff`; images have the names of the model, with any extension.
        llffhold: hold out every llffhold-th view for testing; 0 holds out the one nearest to their mean.
        ndc: normalised device coordinates, those of the widest lens, near 0 and far 1, where cameras look one way;
            never where they stand around something. Without, near is 0.9 times the least, far the greatest depth.
        bd_factor: see above; None or 0 keeps the scale of the model. Only read where cameras look one way.
        keep_world: leave poses and scale as the model has them, with +z for up and without NDC.
        near, far: other bounds than these, in the scene's units (within [0, 1] if ndc).

    Raises:
        UserError: a file or folder is missing or wrong, named with what was expected.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    if bd_factor is not None and bd_factor < 0:
        raise UserError(f"bd_factor {bd_factor:g}: expected 0 (keep the scale) or more")
    model = _largest_model(root)
    folder, shrink = image_folder(root, factor)
    names = tuple(f"{folder}/{name}" for name in _match(root, folder, model))
    paths = [root / name for name in names]

    cameras = _cameras(model)
    forward = facing(cameras.poses) == "forward"
    ndc = ndc and forward and not keep_world
    try:
        if keep_world:
            placed = _kept(model, cameras.poses)
        else:
            placed = _fronted(model, cameras.poses, bd_factor, ndc) if forward else _centred(model, cameras.poses)
    except ValueError as error:
        raise UserError(f"{model.folder}: the scene cannot be placed: {error}") from None
    near = placed.bounds[0] if near is None else near
    far = placed.bounds[1] if far is None else far
    check_bounds(near, far, ndc, str(root))

    made = (float(cameras.width), float(cameras.height))
    size = loaded_size(paths[0], made, f"the model {model.folder}", shrink, image_size)
    cameras = replace(cameras, poses=placed.poses.float(), ndc_scale=cameras.widest()).resized(*size)
    if ndc:
        check_ahead(cameras, str(root))
    return Scene(
        name=root.resolve().name,
        images=load_images(paths, size),
        cameras=cameras,
        names=names,
        split=hold_out(placed.poses, llffhold, root),
        near=near,
        far=far,
        ndc=ndc,
        up=placed.up,
        depth_range=placed.depth_range,
    )


def find_models(root: Path) -> list[Path]:
    """Folders of COLMAP models of a scene: those in sparse, else sparse, else the scene's folder itself."""
    sparse = root / "sparse"
    inside = sorted(path for path in sparse.iterdir() if path.is_dir()) if sparse.is_dir() else []
    for candidates in (inside, [sparse], [root]):
        if found := [folder for folder in candidates if holds_model(folder)]:
            return found
    return []


def _largest_model(root: Path) -> SparseModel:
    models = [read_model(folder) for folder in find_models(root)]
    if not models:
        raise UserError(f"{root}: no COLMAP model; looked for cameras and images (.bin or .txt) in sparse/0, sparse, .")
    largest = max(models, key=lambda model: len(model.images))
    if len(models) > 1:
        counts = ", ".join(f"{model.folder.name} ({len(model.images)} images)" for model in models)
        warnings.warn(
            f"{root / 'sparse'}: {len(models)} models, {counts}; {largest.folder.name}, which has most images, is read",
            UserCaution,
            stacklevel=3,
        )
    return largest


def _match(root: Path, images: str, model: SparseModel) -> list[str]:
    """The file of each image of the model, relative to the folder; warns of files that the model does not have."""
    folder = root / images
    files = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
    there = set(files)
    by_stem: dict[str, list[str]] = {}
    for file in files:
        by_stem.setdefault(str(PurePosixPath(file).with_suffix("")), []).append(file)
    names, missing = [], []
    for image in model.images:
        # Reduced images often have another extension than their originals.
        alike = by_stem.get(str(PurePosixPath(image.name).with_suffix("")), [])
        if image.name in there or len(alike) == 1:
            names.append(image.name if image.name in there else alike[0])
        else:
            missing.append(image.name)
    if missing:
        raise UserError(
            f"{folder}: {len(missing)} of the {len(model.images)} images of {model.folder} are not there: "
            f"{_listed(missing)}"
        )
    used = set(names)
    if len(used) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{model.folder}: two of its images are {folder / twice}, which differ in the extension only")
    if unregistered := [file for file in files if file not in used]:
        message = (
            f"{folder}: {len(unregistered)} of {len(files)} images have no pose in {model.folder} and are left out: "
            f"{_listed(unregistered)}"
        )
        warnings.warn(LeftOut(message, [f"{images}/{file}" for file in unregistered]), stacklevel=3)
    return names


def _listed(names: Sequence[str]) -> str:
    more = len(names) - MOST_LISTED
    return ", ".join(names[:MOST_LISTED]) + (f" and {more} more" if more > 0 else "")


def _lens(camera: ModelCamera) -> Lens:
    return "fisheye" if camera.model.endswith("FISHEYE") else "perspective"


def _cameras(model: SparseModel) -> Cameras:
    """The cameras at the model's resolution and in its world; their poses in float64."""
    used = [model.cameras[image.camera] for image in model.images]
    first = used[0]
    for camera, image in zip(used, model.images, strict=True):
        if (camera.width, camera.height) != (first.width, first.height):
            raise UserError(
                f"{model.folder}: cameras of one scene must have one size: {model.images[0].name} is "
                f"{first.width}x{first.height} pixels, {image.name} is {camera.width}x{camera.height}"
            )
        if _lens(camera) != _lens(first):
            raise UserError(
                f"{model.folder}: cameras of one scene must have one kind of lens: {model.images[0].name} has "
                f"{first.model} ({_lens(first)}), {image.name} has {camera.model} ({_lens(camera)})"
            )
    parameters = [camera.parameters for camera in used]
    focal = [[p.get("fx", p.get("f")), p.get("fy", p.get("f")), p["cx"], p["cy"]] for p in parameters]
    bent = [[p.get(name, 0.0) for name in ("k1", "k2", "k3", "k4", "p1", "p2")] for p in parameters]
    distortion = torch.tensor(bent)
    cameras = Cameras(
        poses=torch.stack([image.pose for image in model.images]),
        intrinsics=torch.tensor(focal),
        width=first.width,
        height=first.height,
        lens=_lens(first),
        distortion=distortion if distortion.any() else None,
    )
    check_lens(cameras, str(model.folder))
    return cameras


def _depth_range(model: SparseModel) -> tuple[float, float] | None:
    """Least and greatest of the images' depth percentiles of points seen, in the model's units; None without points.

    An image in which a few stray points seem very near or far does not count beyond RANGE_SPREAD times the median.
    """
    points = model.points.numpy()
    ranges = []
    for image in model.images:
        pose = image.pose.numpy()
        depths = (pose[:, 3] - points[image.sees]) @ pose[:, 2]
        if (depths > 0).any():
            ranges.append(np.percentile(depths[depths > 0], DEPTH_PERCENTILES))
    if not ranges:
        return None
    low, high = np.array(ranges).T
    middle_low, middle_high = np.median(low), np.median(high)
    return float(max(low.min(), middle_low / RANGE_SPREAD)), float(min(high.max(), middle_high * RANGE_SPREAD))


def _kept(model: SparseModel, poses: Float[Tensor, "n 3 4"]) -> _Placed:
    """Cameras as they are in the model."""
    low, high = _depth_range(model) or depth_bounds(poses)
    return _Placed(poses, (0.9 * low, high), (low, high), (0.0, 0.0, 1.0))


def _fronted(model: SparseModel, poses: Float[Tensor, "n 3 4"], bd_factor: float | None, ndc: bool) -> _Placed:
    """Cameras that look one way, as in LLFF's format."""
    low, high = _depth_range(model) or depth_bounds(poses)  # the latter from where the cameras' axes meet
    scale = 1 / (bd_factor * low) if bd_factor else 1.0
    nearest, furthest = low * scale, high * scale
    bounds = (0.0, 1.0) if ndc else (0.9 * nearest, furthest)
    return _Placed(recentred(scaled(poses, scale)), bounds, (nearest, furthest), (0.0, 1.0, 0.0))


def _centred(model: SparseModel, poses: Float[Tensor, "n 3 4"]) -> _Placed:
    """Cameras around something."""
    world = centred(poses)
    poses = world.poses(poses)
    bounds = depth_bounds(poses, world.points(model.points) if len(model.points) else None)
    low, high = _depth_range(model) or (bounds[0] / world.scale, bounds[1] / world.scale)
    return _Placed(poses, bounds, (low * world.scale, high * world.scale), (0.0, 0.0, 1.0))
