"""Rays: from pixels of a camera to lines through the scene."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from nerf_dfa.rendering.cameras import Cameras
from nerf_dfa.rendering.distortion import bends, pinhole_points


class Rays(NamedTuple):
    """Points o + t d for t in [near, far].

    origins, directions: in the world, or in normalised device coordinates. A camera's directions are not of unit
    length: their component along the camera's axis is 1, so that t is the depth along that axis.
    viewdirs: unit vectors in the world, what the field's colour depends on.
    near, far: bounds of t.
    """

    origins: Float[Tensor, "*batch 3"]
    directions: Float[Tensor, "*batch 3"]
    viewdirs: Float[Tensor, "*batch 3"]
    near: Float[Tensor, "*batch"]
    far: Float[Tensor, "*batch"]

    def clipped(self, box: Float[Tensor, "2 3"]) -> Rays:
        """The same rays, with near and far where they enter and leave a box; near = far where they miss it."""
        direction = torch.where(self.directions.abs() < 1e-9, 1e-9, self.directions)
        a, b = ((corner - self.origins) / direction for corner in box)
        near = torch.maximum(torch.minimum(a, b).amax(-1), self.near)
        far = torch.minimum(torch.maximum(a, b).amin(-1), self.far)
        missed = near >= far
        return self._replace(near=torch.where(missed, self.near, near), far=torch.where(missed, self.near, far))

    def map(self, function) -> Rays:
        """The function applied to each of the five tensors."""
        return Rays(*(function(x) for x in self))


def camera_rays(
    cameras: Cameras,
    view: Int64[Tensor, "*batch"],
    row: Int64[Tensor, "*batch"],
    column: Int64[Tensor, "*batch"],
    near: float,
    far: float,
    ndc: bool = False,
) -> Rays:
    """Rays through the pixels (row, column) of the cameras number `view`, at their `pixel_offset`.

    Lenses with distortion are undone (distortion.py, whose `project` is the way back).

    near, far: depth along the camera's axis, or bounds in [0, 1] of normalised device coordinates if ndc.
    """
    fx, fy, cx, cy = cameras.intrinsics[view].unbind(-1)
    x = (column + cameras.pixel_offset - cx) / fx
    y = (row + cameras.pixel_offset - cy) / fy
    if bends(cameras):
        x, y = pinhole_points(cameras, view, torch.stack([x, y], dim=-1)).unbind(-1)
    in_camera = torch.stack([x, -y, -torch.ones_like(x)], dim=-1)
    pose = cameras.poses[view]
    directions = (pose[..., :3] * in_camera[..., None, :]).sum(-1)
    origins = pose[..., 3]
    viewdirs = torch.nn.functional.normalize(directions, dim=-1)
    if ndc:
        origins, directions = to_ndc(origins, directions, cameras.ndc_scale or cameras.widest())
    return Rays(origins, directions, viewdirs, torch.full_like(x, near), torch.full_like(x, far))


def image_rays(cameras: Cameras, view: int, near: float, far: float, ndc: bool = False) -> Rays:
    """Rays (height, width, ...) of all pixels of one camera."""
    device = cameras.poses.device
    row, column = torch.meshgrid(
        torch.arange(cameras.height, device=device), torch.arange(cameras.width, device=device), indexing="ij"
    )
    return camera_rays(cameras, torch.full_like(row, view), row, column, near, far, ndc)


def to_ndc(
    origins: Float[Tensor, "*batch 3"],
    directions: Float[Tensor, "*batch 3"],
    scale: tuple[float, float],
    near: float = 1.0,
) -> tuple[Float[Tensor, "*batch 3"], Float[Tensor, "*batch 3"]]:
    """Origins and directions in normalised device coordinates (NeRF, appendix C), for cameras that look along -z.

    The origin is moved to the plane z = -near first; then t = 0 is that plane and t = 1 infinity.

    scale: focal length over half the width, and over half the height, of the one camera in the origin whose frustum is
        [-1, 1]^3. It has to be the same for all views of a scene, whatever their own lenses are: another one would put
        the same point of the world elsewhere.
    """
    t = -(near + origins[..., 2]) / directions[..., 2]
    origins = origins + t[..., None] * directions
    ox, oy, oz = origins.unbind(-1)
    dx, dy, dz = directions.unbind(-1)
    ax, ay = scale
    ndc_origins = torch.stack([-ax * ox / oz, -ay * oy / oz, 1 + 2 * near / oz], dim=-1)
    ndc_directions = torch.stack([-ax * (dx / dz - ox / oz), -ay * (dy / dz - oy / oz), -2 * near / oz], dim=-1)
    return ndc_origins, ndc_directions
