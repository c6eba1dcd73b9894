"""A camera's lens as instant-ngp and nerfstudio write it down, checked as it is read."""

from __future__ import annotations

import math
from typing import Any

from nerf_dfa.errors import UserError
from nerf_dfa.rendering.cameras import Lens
from nerf_dfa.scenes.images import ASPECT_TOLERANCE
from nerf_dfa.scenes.tables import number

COEFFICIENTS = ("k1", "k2", "k3", "k4", "p1", "p2")
# The lens of each camera model and the coefficients that it has; the others have to be absent or zero.
MODELS: dict[str, tuple[Lens, tuple[str, ...]]] = {
    "OPENCV": ("perspective", COEFFICIENTS),
    "OPENCV_FISHEYE": ("fisheye", COEFFICIENTS[:4]),
    "PINHOLE": ("perspective", ()),
    "SIMPLE_PINHOLE": ("perspective", ()),
    "RADIAL": ("perspective", COEFFICIENTS[:2]),
    "SIMPLE_RADIAL": ("perspective", COEFFICIENTS[:1]),
}


def read_lens(entries: dict[str, Any], where: str) -> tuple[Lens, tuple[float, ...]]:
    """The kind of lens and k1, k2, k3, k4, p1, p2, from `camera_model` or `is_fisheye` and the coefficients.

    Raises:
        UserError: the model is unknown or contradicts is_fisheye or the coefficients, or one of them is no number.
    """
    model = entries.get("camera_model", "OPENCV_FISHEYE" if entries.get("is_fisheye") else "OPENCV")
    if not isinstance(model, str) or model not in MODELS:
        raise UserError(f"{where}: camera_model is {model!r}; expected one of {', '.join(MODELS)}")
    lens, known = MODELS[model]
    if entries.get("is_fisheye") and lens != "fisheye":
        raise UserError(f"{where}: is_fisheye is set, but camera_model is {model}; remove one of them")
    values = tuple(number(entries, key, where, 0.0) for key in COEFFICIENTS)
    for key, value in zip(COEFFICIENTS, values, strict=True):
        if value and key not in known:
            raise UserError(f"{where}: {key} is {value:g}, but camera_model {model} has no such coefficient")
    return lens, values


def read_intrinsics(entries: dict[str, Any], width: int, height: int, where: str) -> tuple[float, float, float, float]:
    """fx, fy, cx, cy in pixels of an image that is width x height pixels large.

    They are given for an image of `w` x `h` pixels, by default this one, by `fl_x`, `fl_y`, `cx`, `cy` or the angles
    of view `camera_angle_x`, `camera_angle_y`. Pixels are square where only one of x and y is given, and the lens is
    centred unless told.

    Raises:
        UserError: there is no focal length, a value is no number or out of its range, or w x h is of another shape
            than the image.
    """
    made_width = number(entries, "w", where, float(width))
    made_height = number(entries, "h", where, float(height))
    if made_width <= 0 or made_height <= 0:
        raise UserError(f"{where}: w {made_width:g} and h {made_height:g}; expected a positive number of pixels")
    if abs(width / height * made_height / made_width - 1) > ASPECT_TOLERANCE + 1 / height + 1 / width:
        raise UserError(
            f"{where}: the image is {width}x{height} pixels, but its camera was made for {made_width:g}x"
            f"{made_height:g}: cropped or turned images do not fit it"
        )
    fx = _focal(entries, "x", made_width, where)
    fy = _focal(entries, "y", made_height, where) or fx
    fx = fx or fy
    if fx is None or fy is None:
        raise UserError(f"{where}: the keys fl_x and camera_angle_x are missing; one of them is needed")
    cx = number(entries, "cx", where, made_width / 2)
    cy = number(entries, "cy", where, made_height / 2)
    sx, sy = width / made_width, height / made_height
    return fx * sx, fy * sy, cx * sx, cy * sy


def _focal(entries: dict[str, Any], axis: str, size: float, where: str) -> float | None:
    """The focal length along an axis in pixels; None where it is not given."""
    if f"fl_{axis}" in entries:
        focal = number(entries, f"fl_{axis}", where)
        if focal <= 0:
            raise UserError(f"{where}: fl_{axis} is {focal:g}; expected a positive number of pixels")
        return focal
    if f"camera_angle_{axis}" not in entries:
        return None
    angle = number(entries, f"camera_angle_{axis}", where)
    if not 0 < angle < math.pi:
        raise UserError(f"{where}: camera_angle_{axis} is {angle:g}; expected radians between 0 and pi")
    return 0.5 * size / math.tan(0.5 * angle)
