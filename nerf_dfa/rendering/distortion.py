"""Lenses that bend straight lines: OpenCV's two models, their inverses, and the projection of points with them.

Normalised image coordinates are (column - cx) / fx to the right and (row - cy) / fy downwards. A pinhole sees the
direction (x, -y, -1) of the camera's frame at (x, y); a lens sees it at distort(x, y). Coefficients are
k1, k2, k3, k4, p1, p2.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from nerf_dfa.errors import UserError
from nerf_dfa.rendering.cameras import Cameras, Lens

# Newton's steps; each doubles the number of right digits once it is near.
ITERATIONS = 12
# Directions have component 1 along the camera's axis, so that a ray at 90 degrees would be infinitely long.
MOST_DEGREES = 89.0
# Largest distance, in pixels, between a pixel and where its ray comes out of the lens again.
TOLERANCE = 1e-4
# Points per side of the image at which `check_lens` looks, borders included, and steps from the centre to each.
CHECKED = 33


def distort(
    points: Float[Tensor, "*batch 2"], coefficients: Float[Tensor, "*#batch 6"], lens: Lens
) -> Float[Tensor, "*batch 2"]:
    """Where a lens shows what a pinhole shows at `points`, both in normalised image coordinates.

    perspective, with r^2 = x^2 + y^2:
        x' = x (1 + k1 r^2 + k2 r^4 + k3 r^6 + k4 r^8) + 2 p1 x y + p2 (r^2 + 2 x^2)
        y' = y (1 + k1 r^2 + k2 r^4 + k3 r^6 + k4 r^8) + p1 (r^2 + 2 y^2) + 2 p2 x y
    fisheye, with the angle theta = atan(r) to the axis; p1 and p2 are not read:
        (x', y') = (x, y) / r theta (1 + k1 theta^2 + k2 theta^4 + k3 theta^6 + k4 theta^8)
    """
    if lens == "fisheye":
        radius = points.norm(dim=-1)
        angle = torch.atan(radius)
        ratio = torch.where(radius > 0, _bent(angle, coefficients)[0] / radius, 1.0)
        return points * ratio[..., None]
    return _radial_tangential(points, coefficients)[0]


def undistort(
    points: Float[Tensor, "*batch 2"], coefficients: Float[Tensor, "*#batch 6"], lens: Lens
) -> Float[Tensor, "*batch 2"]:
    """The inverse of `distort`, by Newton's iteration in float64; the result has the type of `points`.

    It is exact to 1e-4 pixel where `check_lens` accepts the lens, and undefined elsewhere.
    """
    wanted, coefficients = points.double(), coefficients.double()
    found = _unbent(wanted, coefficients) if lens == "fisheye" else _newton(wanted, coefficients)
    return found.to(points.dtype)


def _radial_tangential(
    points: Float[Tensor, "*batch 2"], coefficients: Float[Tensor, "*#batch 6"]
) -> tuple[Float[Tensor, "*batch 2"], tuple[Tensor, Tensor, Tensor]]:
    """Distorted points and the derivatives dx'/dx, dx'/dy = dy'/dx and dy'/dy."""
    x, y = points.unbind(-1)
    k1, k2, k3, k4, p1, p2 = coefficients.unbind(-1)
    r2 = x * x + y * y
    radial = 1 + r2 * (k1 + r2 * (k2 + r2 * (k3 + r2 * k4)))
    slope = k1 + r2 * (2 * k2 + r2 * (3 * k3 + r2 * 4 * k4))  # of `radial` in r^2
    bent = torch.stack(
        [
            x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
            y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
        ],
        dim=-1,
    )
    xx = radial + 2 * x * x * slope + 2 * p1 * y + 6 * p2 * x
    xy = 2 * x * y * slope + 2 * p1 * x + 2 * p2 * y
    yy = radial + 2 * y * y * slope + 6 * p1 * y + 2 * p2 * x
    return bent, (xx, xy, yy)


def _newton(wanted: Float[Tensor, "*batch 2"], coefficients: Float[Tensor, "*#batch 6"]) -> Float[Tensor, "*batch 2"]:
    found = wanted
    for _ in range(ITERATIONS):
        bent, (xx, xy, yy) = _radial_tangential(found, coefficients)
        ex, ey = (bent - wanted).unbind(-1)
        step = torch.stack([yy * ex - xy * ey, xx * ey - xy * ex], dim=-1) / (xx * yy - xy * xy)[..., None]
        found = found - step
    return found


def _bent(
    angle: Float[Tensor, "*batch"], coefficients: Float[Tensor, "*#batch 6"]
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """A fisheye's image radius at an angle to its axis, and the derivative."""
    k1, k2, k3, k4 = coefficients.unbind(-1)[:4]
    a2 = angle * angle
    radius = angle * (1 + a2 * (k1 + a2 * (k2 + a2 * (k3 + a2 * k4))))
    return radius, 1 + a2 * (3 * k1 + a2 * (5 * k2 + a2 * (7 * k3 + a2 * 9 * k4)))


def _fisheye_angle(
    radius: Float[Tensor, "*batch"], coefficients: Float[Tensor, "*#batch 6"]
) -> Float[Tensor, "*batch"]:
    """The angle to the axis that a fisheye shows at an image radius."""
    angle = radius
    for _ in range(ITERATIONS):
        bent, slope = _bent(angle, coefficients)
        angle = angle - (bent - radius) / slope
    return angle


def _unbent(wanted: Float[Tensor, "*batch 2"], coefficients: Float[Tensor, "*#batch 6"]) -> Float[Tensor, "*batch 2"]:
    radius = wanted.norm(dim=-1)
    ratio = torch.where(radius > 0, torch.tan(_fisheye_angle(radius, coefficients)) / radius, 1.0)
    return wanted * ratio[..., None]


def bends(cameras: Cameras) -> bool:
    """Whether the cameras' lens is anything but a pinhole."""
    return cameras.distortion is not None or cameras.lens == "fisheye"


def check_lens(cameras: Cameras, where: str) -> None:
    """Raises UserError, naming `where` and the view, unless every pixel of every camera has one ray.

    Not so where the polynomial turns back on its way from the centre to the border (the lens folds), where Newton's
    iteration does not come to rest, and where a fisheye sees 89 degrees or more from its axis. Loaders call it, and
    `undistort` takes it for granted.
    """
    if not bends(cameras):
        return
    coefficients = _coefficients(cameras).double()
    if cameras.lens == "fisheye" and coefficients[:, 4:].any():
        raise UserError(f"{where}: p1 and p2 of a fisheye lens are not zero; its model has only k1, k2, k3, k4")
    table = torch.cat([cameras.intrinsics.double(), coefficients], dim=1)
    distinct, lens_of = torch.unique(table, dim=0, return_inverse=True)
    grid = torch.cartesian_prod(
        torch.linspace(0, cameras.width, CHECKED, dtype=torch.float64),
        torch.linspace(0, cameras.height, CHECKED, dtype=torch.float64),
    ).to(table.device)
    for number, row in enumerate(distinct):
        view = int((lens_of == number).nonzero()[0])
        problem = _problem(grid, row[:2], row[2:4], row[4:], cameras.lens)
        if problem:
            raise UserError(f"{where}: view {view}: {problem}")


def _problem(
    pixels: Float[Tensor, "n 2"],
    focal: Float[Tensor, " 2"],
    centre: Float[Tensor, " 2"],
    coefficients: Float[Tensor, " 6"],
    lens: Lens,
) -> str | None:
    """What is wrong with a lens at some of the pixels, in words."""
    wanted = (pixels - centre) / focal
    numbers = ", ".join(f"{value:g}" for value in coefficients.tolist())
    along = torch.linspace(0, 1, CHECKED, dtype=torch.float64, device=pixels.device)[:, None]
    if lens == "fisheye":
        radius = wanted.norm(dim=-1)
        angle = _fisheye_angle(radius, coefficients)
        one_way = (_bent(along * angle, coefficients)[1] > 0).all(0)
        missed = (_bent(angle, coefficients)[0] - radius).abs() * focal.max()
    else:
        found = _newton(wanted, coefficients)
        _, (xx, xy, yy) = _radial_tangential(along[..., None] * found, coefficients)
        one_way = ((xx * yy > xy * xy) & (xx + yy > 0)).all(0)
        missed = ((_radial_tangential(found, coefficients)[0] - wanted) * focal).norm(dim=-1)
    wrong = ~(one_way & (missed < TOLERANCE))
    if wrong.any():
        x, y = pixels[wrong.nonzero()[0, 0]].tolist()
        return (
            f"the distortion (k1, k2, k3, k4, p1, p2 = {numbers}) folds the image: no ray belongs to the pixel at "
            f"x {x:g}, y {y:g}; check the coefficients and the camera model"
        )
    if lens == "fisheye" and math.degrees(angle.max()) >= MOST_DEGREES:
        return (
            f"the fisheye lens sees {math.degrees(angle.max()):.1f} degrees from its axis; less than "
            f"{MOST_DEGREES:g} is supported: crop the images or undistort them to a narrower view"
        )
    return None


def _coefficients(cameras: Cameras) -> Float[Tensor, "views 6"]:
    if cameras.distortion is None:
        return cameras.intrinsics.new_zeros(len(cameras), 6)
    return cameras.distortion


def pinhole_points(
    cameras: Cameras, view: Int64[Tensor, "*batch"], points: Float[Tensor, "*batch 2"]
) -> Float[Tensor, "*batch 2"]:
    """What a pinhole shows where the cameras number `view` show `points`, in normalised image coordinates."""
    return undistort(points, _coefficients(cameras)[view], cameras.lens)


def project(
    cameras: Cameras, view: Int64[Tensor, "*batch"], points: Float[Tensor, "*batch 3"]
) -> tuple[Float[Tensor, "*batch 2"], Float[Tensor, "*batch"]]:
    """Where the cameras number `view` show points of the world: the inverse of `camera_rays`.

    Returns:
        Image coordinates (x, y) in pixels from the upper left corner, where row i and column j have their centre at
        (j + 0.5, i + 0.5), and the depth along the camera's axis. They mean nothing at depths of 0 or less.
    """
    pose, intrinsics = cameras.poses[view], cameras.intrinsics[view]
    in_camera = (pose[..., :3] * (points - pose[..., 3])[..., None]).sum(-2)
    depth = -in_camera[..., 2]
    seen = torch.stack([in_camera[..., 0], -in_camera[..., 1]], dim=-1) / depth[..., None]
    if bends(cameras):
        seen = distort(seen, _coefficients(cameras)[view], cameras.lens)
    return seen * intrinsics[..., :2] + intrinsics[..., 2:], depth
