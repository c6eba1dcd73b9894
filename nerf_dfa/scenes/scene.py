"""What every loader returns, whatever the format on disk was."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from nerf_dfa.errors import UserError
from nerf_dfa.rendering.cameras import Cameras
from nerf_dfa.rendering.rays import camera_rays

# Matrices are often written with four or five digits; a larger error is a mistake in the file.
POSE_TOLERANCE = 1e-3

Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Scene:
    """Photographs with cameras, and how far away the scene lies.

    images: 8-bit colours, RGB or RGBA with straight (not premultiplied) alpha; mapped from a file where they are many.
    names: the file that each image came from, relative to the scene's folder.
    split: for "train", "val" and "test" the indices of its views; a view may stand in several or none.
    near, far: bounds of the scene along a ray, in units of depth along the camera's axis (in [0, 1] if ndc).
    ndc: rays are to be warped to normalised device coordinates (forward-facing scenes).
    up: the scene's upward direction in the world, unit length.
    depth_range: nearest and furthest depth of the scene in world units, ndc or not, where the format tells.
    """

    name: str
    images: UInt8[Tensor, "views height width channels"]
    cameras: Cameras
    names: tuple[str, ...]
    split: dict[str, tuple[int, ...]]
    near: float
    far: float
    ndc: bool = False
    up: tuple[float, float, float] = (0.0, 0.0, 1.0)
    depth_range: tuple[float, float] | None = None

    def views(self, split: Split) -> tuple[UInt8[Tensor, "n height width channels"], Cameras, tuple[str, ...]]:
        """Images (a copy), cameras and names of one split."""
        index = list(self.split[split])
        return self.images[index], self.cameras[index], tuple(self.names[i] for i in index)


def check_pose(pose: Float[Tensor, "3 4"], where: str) -> None:
    """Raises UserError, naming `where`, unless [R | t] is finite and R a rotation (to POSE_TOLERANCE)."""
    rotation = pose[:, :3]
    if not pose.isfinite().all():
        raise UserError(f"{where}: the camera matrix has a value that is not finite")
    error = (rotation @ rotation.T - torch.eye(3, dtype=pose.dtype)).abs().max().item()
    if error > POSE_TOLERANCE:
        raise UserError(
            f"{where}: the camera matrix is not a rotation: R R^T differs from the identity by {error:.2g} "
            f"(at most {POSE_TOLERANCE:g} is accepted)"
        )
    if torch.linalg.det(rotation) < 0:
        raise UserError(f"{where}: the camera matrix mirrors: its determinant is -1, expected +1")


def check_bounds(near: float, far: float, ndc: bool, where: str) -> None:
    """Raises UserError, naming `where`, unless 0 <= near < far, both finite, and far <= 1 if ndc."""
    if not 0 <= near < far < math.inf:
        raise UserError(f"{where}: near {near:g} and far {far:g}; expected 0 <= near < far, both finite")
    if ndc and far > 1:
        raise UserError(f"{where}: far {far:g}; normalised device coordinates (NDC) end at 1")


def check_ahead(cameras: Cameras, where: str) -> None:
    """Raises UserError, naming `where`, if a pixel does not look along -z: NDC has no place for what it sees."""
    corners = product(range(len(cameras)), (0, cameras.height - 1), (0, cameras.width - 1))
    view, row, column = torch.tensor(list(corners)).T
    away = view[camera_rays(cameras, view, row, column, 0.0, 1.0).directions[:, 2] >= 0].unique()
    if len(away):
        raise UserError(
            f"{where}: {len(away)} of {len(cameras)} cameras look sideways or back, and normalised device coordinates "
            "(NDC) hold only what lies ahead: set no_ndc, and spherify if the cameras stand around an object"
        )


def over_background(images: UInt8[Tensor, "*batch channels"], white: bool) -> Float[Tensor, "*batch 3"]:
    """Colours in [0, 1] of 8-bit RGB or RGBA pixels, the latter composited over white or black."""
    colours = images.to(torch.float32) / 255
    if images.shape[-1] == 3:
        return colours
    rgb, alpha = colours[..., :3], colours[..., 3:]
    return rgb * alpha + (1 - alpha) if white else rgb * alpha
