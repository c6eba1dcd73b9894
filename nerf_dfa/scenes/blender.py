"""Scenes in the format of NeRF's synthetic data set: rendered views and transforms_{train,val,test}.json."""

from __future__ import annotations

import math
from pathlib import Path, PurePosixPath

from nerf_dfa.errors import UserError
from nerf_dfa.scenes.scene import Scene
from nerf_dfa.scenes.split_files import Bounds, Frame, Lens, Table, load_split_files
from nerf_dfa.scenes.tables import number

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
# Where the objects of the synthetic data set lie, as seen from its cameras (NeRF's configuration files).
SYNTHETIC_BOUNDS = (2.0, 6.0)


def load_blender(
    root: str | Path,
    *,
    half_res: bool = False,
    image_size: int | None = None,
    testskip: int = 1,
    near: float | None = None,
    far: float | None = None,
) -> Scene:
    """A scene in a folder with transforms_train.json and, where it has any, transforms_{val,test}.json.

    Each file holds `camera_angle_x`, the horizontal field of view in radians, and `frames` with a `file_path`
    (".png" is added if it has no extension) and a `transform_matrix`, camera-to-world in OpenGL axes.

    Args:
        root: the scene's folder; its name becomes the scene's.
        half_res: halve width and height.
        image_size: width in pixels to average the images down to, height in proportion.
        testskip: keep every testskip-th view of val and test; 0 and 1 keep all.
        near, far: bounds of depth; by default the training file's keys "near" and "far", else 2 and 6.

    Raises:
        UserError: a file or key is missing or wrong, named with what was expected, or an image stands in two frames of
            a split or in train and test.
    """

    def bounds(tables: dict[str, Table]) -> Bounds:
        file, table = tables["train"]
        return Bounds(
            near if near is not None else number(table, "near", file, SYNTHETIC_BOUNDS[0]),
            far if far is not None else number(table, "far", file, SYNTHETIC_BOUNDS[1]),
        )

    holds = "camera_angle_x and frames"
    return load_split_files(Path(root).expanduser(), "Blender", holds, _look, bounds, half_res, image_size, testskip)


def _look(frame: Frame) -> tuple[str, Lens]:
    file, table = frame.table
    angle = number(table, "camera_angle_x", file)
    if not 0 < angle < math.pi:
        raise UserError(f"{file}: camera_angle_x is {angle:g}; expected radians between 0 and pi")

    def lens(width: int, height: int) -> list[float]:
        focal = 0.5 * width / math.tan(0.5 * angle)
        return [focal, focal, width / 2, height / 2]

    return _image_name(frame.path), lens


def _image_name(path: str) -> str:
    """The file that a file_path means, relative to the scene's folder."""
    name = str(PurePosixPath(path))
    return name if name.lower().endswith(IMAGE_SUFFIXES) else f"{name}.png"
