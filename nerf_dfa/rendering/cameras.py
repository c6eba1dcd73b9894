"""Cameras: where each photograph was taken from, and with which lens.

Convention, for the whole program: OpenGL camera-to-world matrices. In the camera's frame +x points right,
+y up and +z backwards, so that the camera looks along -z. Pixel (row i, column j) covers the square
[j, j + 1] x [i, i + 1] and its centre is (j + 0.5, i + 0.5); row 0 is the top of the image.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Lens = Literal["perspective", "fisheye"]


@dataclass(frozen=True)
class Cameras:
    """Cameras that share one resolution and one kind of lens.

    poses: camera-to-world [R | t]: the columns of R are the camera's x, y and z axes in the world, t its centre.
    intrinsics: fx, fy, cx, cy in pixels; cx = width / 2 for a centred lens.
    width, height: resolution in pixels.
    lens, distortion: k1, k2, k3, k4, p1, p2 of the lens (see distortion.py); without them it is a pinhole.
    pixel_offset: where in its square, in pixels from the upper left corner, a pixel's ray passes; 0.5 is its centre.
    ndc_scale: what normalised device coordinates are scaled by (see `rays.to_ndc`), one for all views of a scene; None:
        `widest` of these cameras, which is not that of a part of them.
    """

    poses: Float[Tensor, "views 3 4"]
    intrinsics: Float[Tensor, "views 4"]
    width: int
    height: int
    lens: Lens = "perspective"
    distortion: Float[Tensor, "views 6"] | None = None
    pixel_offset: float = 0.5
    ndc_scale: tuple[float, float] | None = None

    def __len__(self) -> int:
        return self.poses.shape[0]

    def __getitem__(self, index: int | slice | list[int] | tuple[int, ...] | Tensor) -> Cameras:
        """The chosen cameras; an integer gives a set of one."""
        if isinstance(index, int):
            index = [index]
        elif isinstance(index, tuple):
            index = list(index)
        distortion = None if self.distortion is None else self.distortion[index]
        return replace(self, poses=self.poses[index], intrinsics=self.intrinsics[index], distortion=distortion)

    def to(self, device: torch.device | str) -> Cameras:
        distortion = None if self.distortion is None else self.distortion.to(device)
        return replace(self, poses=self.poses.to(device), intrinsics=self.intrinsics.to(device), distortion=distortion)

    def resized(self, width: int, height: int) -> Cameras:
        """The same lenses over an image of another resolution (pixels)."""
        sx, sy = width / self.width, height / self.height
        scale = self.intrinsics.new_tensor([sx, sy, sx, sy])
        return replace(self, intrinsics=self.intrinsics * scale, width=width, height=height)

    def widest(self) -> tuple[float, float]:
        """Least focal lengths, across and down, over half the width and half the height: all views lie within."""
        fx, fy = self.intrinsics[:, :2].amin(0).tolist()
        return 2 * fx / self.width, 2 * fy / self.height

    def with_poses(self, poses: Float[Tensor, "frames 3 4"]) -> Cameras:
        """The first camera's lens at other places, as a camera path needs it."""
        count = poses.shape[0]
        distortion = None if self.distortion is None else self.distortion[:1].expand(count, 6)
        return replace(self, poses=poses, intrinsics=self.intrinsics[:1].expand(count, 4), distortion=distortion)
