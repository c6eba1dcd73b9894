"""Cameras: where each photograph was taken from, and with which lens.

Convention, for the whole program: OpenGL camera-to-world matrices. In the camera's frame +x points right,
+y up and +z backwards, so that the camera looks along -z. Pixel (row i, column j) covers the square
[j, j + 1] x [i, i + 1] and its centre is (j + 0.5, i + 0.5); row 0 is the top of the image.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Cameras:
    """Pinhole cameras that share one resolution.

    poses: camera-to-world [R | t]: the columns of R are the camera's x, y and z axes in the world, t its centre.
    intrinsics: fx, fy, cx, cy in pixels; cx = width / 2 for a centred lens.
    width, height: resolution in pixels.
    """

    poses: Float[Tensor, "views 3 4"]
    intrinsics: Float[Tensor, "views 4"]
    width: int
    height: int

    def __len__(self) -> int:
        return self.poses.shape[0]

    def __getitem__(self, index: int | slice | list[int] | tuple[int, ...] | Tensor) -> Cameras:
        """The chosen cameras; an integer gives a set of one."""
        if isinstance(index, int):
            index = [index]
        elif isinstance(index, tuple):
            index = list(index)
        return replace(self, poses=self.poses[index], intrinsics=self.intrinsics[index])

    def to(self, device: torch.device | str) -> Cameras:
        return replace(self, poses=self.poses.to(device), intrinsics=self.intrinsics.to(device))

    def resized(self, width: int, height: int) -> Cameras:
        """The same lenses over an image of another resolution (pixels)."""
        sx, sy = width / self.width, height / self.height
        scale = self.intrinsics.new_tensor([sx, sy, sx, sy])
        return replace(self, intrinsics=self.intrinsics * scale, width=width, height=height)

    def with_poses(self, poses: Float[Tensor, "frames 3 4"]) -> Cameras:
        """The first camera's lens at other places, as a camera path needs it."""
        return replace(self, poses=poses, intrinsics=self.intrinsics[:1].expand(poses.shape[0], 4))
