"""What COLMAP's sparse models are made of, whatever form the files have: camera models, poses, and their checks.

COLMAP writes poses from world to camera, in axes x right, y down, z ahead; here they are camera-to-world in OpenGL
axes. Its pixels have their centres at +0.5, as everywhere here.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from nerf_dfa.errors import UserError
from nerf_dfa.scenes.scene import POSE_TOLERANCE, check_pose

# Numbers and parameters of the camera models, in the order in which the files hold them. d1, d2 and d3 are
# COLMAP's k4, k5 and k6: coefficients of the polynomial that FULL_OPENCV divides by.
CAMERA_MODELS: dict[str, tuple[int, str]] = {
    "SIMPLE_PINHOLE": (0, "f cx cy"),
    "PINHOLE": (1, "fx fy cx cy"),
    "SIMPLE_RADIAL": (2, "f cx cy k1"),
    "RADIAL": (3, "f cx cy k1 k2"),
    "OPENCV": (4, "fx fy cx cy k1 k2 p1 p2"),
    "OPENCV_FISHEYE": (5, "fx fy cx cy k1 k2 k3 k4"),
    "FULL_OPENCV": (6, "fx fy cx cy k1 k2 p1 p2 k3 d1 d2 d3"),
    "SIMPLE_RADIAL_FISHEYE": (8, "f cx cy k1"),
    "RADIAL_FISHEYE": (9, "f cx cy k1 k2"),
    "SIMPLE_FISHEYE": (14, "f cx cy"),
    "FISHEYE": (15, "fx fy cx cy"),
}
# Models that no lens of this program is: they are refused by name.
REFUSED_MODELS = {
    7: "FOV",
    10: "THIN_PRISM_FISHEYE",
    11: "RAD_TAN_THIN_PRISM_FISHEYE",
    12: "SIMPLE_DIVISION",
    13: "DIVISION",
    16: "EUCM",
    17: "EQUIRECTANGULAR",
}


class ModelCamera(NamedTuple):
    """A camera of the model. parameters: by the names in CAMERA_MODELS, lengths in pixels."""

    number: int
    model: str
    width: int
    height: int
    parameters: dict[str, float]


class ModelImage(NamedTuple):
    """A registered image. camera: its camera's number; sees: rows of the model's points that it observes."""

    name: str
    camera: int
    pose: Float[Tensor, "3 4"]
    sees: Int64[np.ndarray, " m"]


def camera_pose(
    quaternion: Float[np.ndarray, " 4"], translation: Float[np.ndarray, " 3"], where: str
) -> Float[Tensor, "3 4"]:
    """Camera-to-world in OpenGL axes from COLMAP's world-to-camera quaternion (w, x, y, z) and translation.

    Raises:
        UserError: naming `where`, a value is not finite or the quaternion has not length 1 (to POSE_TOLERANCE).
    """
    length = math.hypot(*quaternion)
    if not (math.isfinite(length) and np.isfinite(translation).all()):
        raise UserError(f"{where}: the pose has a value that is not finite")
    if abs(length - 1) > POSE_TOLERANCE:
        raise UserError(
            f"{where}: the pose is not a rotation: its quaternion has length {length:.4g}, "
            f"expected 1 (to {POSE_TOLERANCE:g})"
        )
    w, x, y, z = quaternion / length
    world_to_camera = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    right, down, ahead = world_to_camera
    with np.errstate(over="ignore", invalid="ignore"):  # check_pose sees what is too large
        centre = -world_to_camera.T @ translation
    pose = torch.from_numpy(np.stack([right, -down, -ahead, centre], axis=1))
    check_pose(pose, where)
    return pose


def model_camera(number: int, model: str, size: tuple[int, int], values: tuple[float, ...], where: str) -> ModelCamera:
    """A camera from its model's name, (width, height) and parameters in the order of CAMERA_MODELS.

    Raises:
        UserError: naming `where`, the number of parameters or one of them is wrong.
    """
    names = CAMERA_MODELS[model][1].split()
    if len(values) != len(names):
        raise UserError(f"{where}: {len(values)} parameters; {model} has {len(names)} ({', '.join(names)})")
    parameters = dict(zip(names, values, strict=True))
    if not np.isfinite(values).all():
        raise UserError(f"{where}: a parameter is not finite")
    if not (min(size) > 0 and all(parameters[name] > 0 for name in ("f", "fx", "fy") if name in parameters)):
        raise UserError(f"{where}: width, height and focal lengths have to be greater than 0")
    if any(parameters.get(name) for name in ("d1", "d2", "d3")):
        raise UserError(
            f"{where}: k4, k5, k6 of FULL_OPENCV, which divide by a polynomial, are not zero and not supported; "
            "undistort the images with COLMAP, or choose OPENCV there"
        )
    return ModelCamera(number, model, *size, parameters)


def refuse_model(name: str, where: str) -> UserError:
    """What to raise for a camera model that is not in CAMERA_MODELS."""
    known = ", ".join(CAMERA_MODELS)
    return UserError(f"{where}: the camera model {name} is not supported, but {known} are: undistort the images first")
