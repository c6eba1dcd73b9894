"""Photographs with poses in LLFF's format: poses_bounds.npy and folders of images, as of hand-held captures.

poses_bounds.npy has a row of 17 numbers for each image, in the order of the images' names: a 3x5 matrix
[R | t | height, width, focal], R's columns being the camera's "down, right, backwards" in the world, and the
nearest and furthest depth that the camera sees.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from nerf_dfa.errors import UserError
from nerf_dfa.rendering.cameras import Cameras
from nerf_dfa.scenes.images import IMAGE_SUFFIXES, image_folder, load_images, loaded_size
from nerf_dfa.scenes.paths import average_pose, nearest_to_axes
from nerf_dfa.scenes.scene import Scene, check_ahead, check_bounds, check_pose

# Any direction that is not the capture's up serves to fix the turn about it; this one is NeRF's.
SPHERIFY_REFERENCE = (0.1, 0.2, 0.3)


def load_llff(
    root: str | Path,
    *,
    factor: int | None = 8,
    llffhold: int = 8,
    ndc: bool = True,
    spherify: bool = False,
    image_size: int | None = None,
    bd_factor: float | None = 0.75,
    keep_world: bool = False,
    near: float | None = None,
    far: float | None = None,
) -> Scene:
    """A scene of photographs with poses_bounds.npy, scaled and centred as NeRF does.

    The world is scaled so that the nearest depth is 1 / bd_factor, then moved so that the average camera sits
    in the origin and looks along -z. Images come from the folder images_{factor}; where there is none, the
    originals in `images` are averaged down in memory. val and test are the same views, train the others.

    Args:
        root: the scene's folder; its name becomes the scene's.
        factor: how many times smaller than the originals; None, 0 and 1 mean the originals.
        llffhold: hold out every llffhold-th view for testing; 0 holds out the one nearest to their mean.
        ndc: for normalised device coordinates (forward-facing captures), those of the widest lens: near 0 and far 1.
            Else near is 0.9 times the least, far the greatest depth.
        spherify: for captures all around an object (see `spherified`); needs ndc off.
        image_size: width in pixels to average the images down to, height in proportion.
        bd_factor: see above; None or 0 keeps the scale of the file.
        keep_world: leave poses and scale as the file has them, with +z for up; needs ndc and spherify off.
        near, far: other bounds than these, in the scaled world's units (within [0, 1] if ndc).

    Raises:
        UserError: a file or folder is missing or wrong, named with what was expected.
    """
    root = Path(root).expanduser()
    if spherify and ndc:
        raise UserError("spherify is for captures all around an object, which NDC cannot hold: turn ndc off (no_ndc)")
    if keep_world and (ndc or spherify):
        raise UserError("keep_world leaves poses as they are, which NDC and spherify change: turn them off (no_ndc)")
    if bd_factor is not None and bd_factor < 0:
        raise UserError(f"bd_factor {bd_factor:g}: expected 0 (keep the scale) or more")
    poses, hwf, bounds = _read_poses_bounds(root)
    names, shrink = _find_images(root, factor)
    if len(names) != len(poses):
        folder = (root / names[0]).parent
        raise UserError(f"{root / 'poses_bounds.npy'} has {len(poses)} poses, but {folder} {len(names)} images")

    scale = 1 / (bd_factor * bounds.min().item()) if bd_factor and not keep_world else 1.0
    if not keep_world:
        poses, ratio = _placed(scaled(poses, scale), spherify, root)
        scale *= ratio
    nearest, furthest = (bounds.min() * scale).item(), (bounds.max() * scale).item()
    default_near, default_far = (0.0, 1.0) if ndc else (0.9 * nearest, furthest)
    near = default_near if near is None else near
    far = default_far if far is None else far
    check_bounds(near, far, ndc, str(root))

    paths = [root / name for name in names]
    made_height, made_width = hwf[0, :2].tolist()
    size = loaded_size(paths[0], (made_width, made_height), "poses_bounds.npy", shrink, image_size)
    cameras = _cameras(poses, hwf, size)
    if ndc:
        check_ahead(cameras, str(root))
    return Scene(
        name=root.resolve().name,
        images=load_images(paths, size),
        cameras=cameras,
        names=names,
        split=hold_out(poses, llffhold, root),
        near=near,
        far=far,
        ndc=ndc,
        up=(0.0, 0.0, 1.0) if spherify or keep_world else (0.0, 1.0, 0.0),
        depth_range=(nearest, furthest),
    )


def _read_poses_bounds(
    root: Path,
) -> tuple[Float[Tensor, "n 3 4"], Float[Tensor, "n 3"], Float[Tensor, "n 2"]]:
    """Poses in OpenGL axes; height, width, focal length in pixels; nearest and furthest depth. In float64."""
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    file = root / "poses_bounds.npy"
    try:
        array = np.load(file, allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"{file}: no such file; a scene in LLFF's format needs it") from None
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{file}: not a NumPy array of numbers") from error
    if array.ndim != 2 or array.shape[1] != 17 or not len(array) or array.dtype.kind not in "fiu":
        raise UserError(f"{file}: shape {array.shape} of {array.dtype}; expected one row of 17 numbers per image")
    table = torch.from_numpy(array.astype(np.float64))
    matrices, bounds = table[:, :15].reshape(-1, 3, 5), table[:, 15:]
    down, right, backwards, centre, hwf = matrices.unbind(-1)
    poses = torch.stack([right, -down, backwards, centre], dim=-1)
    for view, pose in enumerate(poses):
        where = f"{file}: view {view}"
        check_pose(pose, where)
        if not (hwf[view].isfinite() & (hwf[view] > 0)).all():
            raise UserError(f"{where}: height, width, focal length are {hwf[view].tolist()}; expected positive numbers")
        nearest, furthest = bounds[view].tolist()
        if not 0 < nearest < furthest < float("inf"):
            raise UserError(f"{where}: depth bounds {nearest:g}, {furthest:g}; expected 0 < near < far, both finite")
    return poses, hwf, bounds


def _find_images(root: Path, factor: int | None) -> tuple[tuple[str, ...], int]:
    """The images' names relative to the scene's folder, sorted, and how many times too large they are."""
    folder, shrink = image_folder(root, factor)
    files = sorted(file.name for file in (root / folder).iterdir())
    names = [f for f in files if f.lower().endswith(IMAGE_SUFFIXES) and not f.startswith(".")]
    if not names:
        raise UserError(f"{root / folder}: no images ({', '.join(IMAGE_SUFFIXES)}) in this folder")
    return tuple(f"{folder}/{name}" for name in names), shrink


def _cameras(poses: Float[Tensor, "n 3 4"], hwf: Float[Tensor, "n 3"], size: tuple[int, int]) -> Cameras:
    """Focal lengths follow from the images' actual size, which a factor gives only up to rounding."""
    width, height = size
    made_height, made_width, focal = hwf.unbind(-1)
    centre = torch.tensor([width / 2, height / 2], dtype=hwf.dtype).expand(len(hwf), 2)
    lengths = torch.stack([focal * width / made_width, focal * height / made_height], dim=-1)
    cameras = Cameras(poses.float(), torch.cat([lengths, centre], dim=-1).float(), width, height)
    return replace(cameras, ndc_scale=cameras.widest())


def hold_out(poses: Float[Tensor, "n 3 4"], llffhold: int, root: Path) -> dict[str, tuple[int, ...]]:
    """Every llffhold-th view, for 0 the one nearest to their mean, as val and test, and the others as train.

    Raises:
        UserError: naming `root`, none is left to train on.
    """
    count = len(poses)
    if llffhold > 0:
        test = tuple(range(0, count, llffhold))
    else:
        centres = poses[:, :, 3]
        test = (int((centres - centres.mean(0)).norm(dim=1).argmin()),)
    train = tuple(view for view in range(count) if view not in test)
    if not train:
        raise UserError(f"{root}: llffhold {llffhold} holds out all {count} views and leaves none to train on")
    return {"train": train, "val": test, "test": test}


def scaled(poses: Float[Tensor, "n 3 4"], scale: float) -> Float[Tensor, "n 3 4"]:
    """The same cameras in a world `scale` times as large."""
    return torch.cat([poses[:, :, :3], poses[:, :, 3:] * scale], dim=-1)


def _seen_from(poses: Float[Tensor, "n 3 4"], frame: Float[Tensor, "3 4"]) -> Float[Tensor, "n 3 4"]:
    """The same cameras in a world whose axes and origin are those of `frame`."""
    rotation, origin = frame[:, :3], frame[:, 3]
    return rotation.T @ torch.cat([poses[:, :, :3], poses[:, :, 3:] - origin[:, None]], dim=-1)


def _placed(poses: Float[Tensor, "n 3 4"], spherify: bool, root: Path) -> tuple[Float[Tensor, "n 3 4"], float]:
    """Poses recentred and, if wished, spherified, and the scale that they were multiplied by."""
    try:
        poses = recentred(poses)
    except ValueError:
        # Cameras evenly all around have no average; spherify needs none, it only decides the turn about up.
        if not spherify:
            raise UserError(
                f"{root}: the cameras look all ways and have no average to centre on; set spherify and no_ndc"
            ) from None
    if not spherify:
        return poses, 1.0
    try:
        return spherified(poses)
    except ValueError as error:
        raise UserError(f"{root}: {error}") from None


def recentred(poses: Float[Tensor, "n 3 4"]) -> Float[Tensor, "n 3 4"]:
    """The same cameras in a world where their average is the identity."""
    return _seen_from(poses, average_pose(poses))


def spherified(poses: Float[Tensor, "n 3 4"]) -> tuple[Float[Tensor, "n 3 4"], float]:
    """Cameras all around an object in a world with the object in the origin and +z up, as NeRF does.

    The origin is the point nearest to all optical axes; up is where the cameras stand on average, seen from
    there; the scale makes the cameras' distance from the origin 1 (root of the mean square).

    Returns:
        The poses, and the scale that they were multiplied by.

    Raises:
        ValueError: the cameras stand on average where they look, so that no direction is up.
    """
    origin = nearest_to_axes(poses)
    offsets = poses[:, :, 3] - origin
    radius = offsets.square().sum(-1).mean().sqrt().item()
    if offsets.mean(0).norm() <= 1e-6 * radius:
        raise ValueError("spherify finds no upward direction: the cameras are level with what they look at")
    z = normalize(offsets.mean(0), dim=0)
    x = normalize(torch.linalg.cross(z.new_tensor(SPHERIFY_REFERENCE), z), dim=0)
    y = torch.linalg.cross(z, x)
    poses = _seen_from(poses, torch.stack([x, y, z, origin], dim=1))
    return scaled(poses, 1 / radius), 1 / radius
