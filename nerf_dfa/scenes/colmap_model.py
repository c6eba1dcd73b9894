"""Reading COLMAP's sparse models, in their text and binary forms: cameras, images with poses, and points.

A model is a folder with cameras, images and points3D, all as .bin or all as .txt (https://colmap.github.io/format.html).
Binary files are little-endian, without padding. Colours, errors and tracks of points and the places of keypoints are
not read.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from nerf_dfa.errors import UserError
from nerf_dfa.scenes.colmap_records import (
    CAMERA_MODELS,
    REFUSED_MODELS,
    ModelCamera,
    ModelImage,
    camera_pose,
    model_camera,
    refuse_model,
)

FILES = ("cameras", "images", "points3D")


class SparseModel(NamedTuple):
    """A model as read. images are sorted by name; cameras by their numbers; points in the model's world, float64."""

    folder: Path
    cameras: dict[int, ModelCamera]
    images: tuple[ModelImage, ...]
    points: Float[Tensor, "n 3"]


def holds_model(folder: Path) -> bool:
    """Whether the folder has the cameras and images of a model, in one form."""
    return any(all((folder / f"{name}.{form}").is_file() for name in FILES[:2]) for form in ("bin", "txt"))


def read_model(folder: Path) -> SparseModel:
    """The model in a folder; the binary form where there are both, as COLMAP does.

    Raises:
        UserError: a file is missing, truncated or wrong, named with what was expected.
    """
    form = "bin" if (folder / "cameras.bin").is_file() and (folder / "images.bin").is_file() else "txt"
    binary = form == "bin"
    files = [folder / f"{name}.{form}" for name in FILES]
    for file in files:
        if not file.is_file():
            raise UserError(f"{file}: no such file; a COLMAP model has {', '.join(f'{n}.{form}' for n in FILES)}")
    numbers, points = (_points_binary if binary else _points_text)(files[2])
    order = np.argsort(numbers, kind="stable")
    ordered = numbers[order]
    if (repeated := ordered[1:][ordered[1:] == ordered[:-1]]).size:
        raise UserError(f"{files[2]}: point {repeated[0]} stands there twice")

    def rows_of(wanted: Int64[np.ndarray, " m"]) -> Int64[np.ndarray, " k"]:
        place = np.searchsorted(ordered, wanted)
        place[place == len(ordered)] = 0
        return order[place[ordered[place] == wanted]] if len(ordered) else order

    cameras: dict[int, ModelCamera] = {}
    for camera in (_cameras_binary if binary else _cameras_text)(files[0]):
        if camera.number in cameras:
            raise UserError(f"{files[0]}: camera {camera.number} stands there twice")
        cameras[camera.number] = camera
    images: dict[str, ModelImage] = {}
    for image in (_images_binary if binary else _images_text)(files[1]):
        if image.name in images:
            raise UserError(f"{files[1]}: the image {image.name} stands there twice")
        if image.camera not in cameras:
            raise UserError(f"{files[1]}: image {image.name} is of camera {image.camera}, which {files[0].name} lacks")
        images[image.name] = image._replace(sees=rows_of(image.sees))
    if not images:
        raise UserError(f"{files[1]}: no image is registered in this model")
    return SparseModel(folder, cameras, tuple(images[name] for name in sorted(images)), torch.from_numpy(points))


class _Reader:
    """The bytes of one binary file, taken from its beginning. What does not fit is a UserError, never read."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.at = 0
        try:
            self.data = file.read_bytes()
        except OSError as error:
            raise UserError(f"{file}: cannot be read ({error.strerror})") from error

    def truncated(self, what: str) -> UserError:
        return UserError(f"{self.file}: ends within {what} ({len(self.data)} bytes): truncated, or not of COLMAP")

    def take(self, layout: str, what: str) -> tuple[Any, ...]:
        """Numbers in the layout of `struct`, little-endian."""
        layout = f"<{layout}"
        if self.at + struct.calcsize(layout) > len(self.data):
            raise self.truncated(what)
        values = struct.unpack_from(layout, self.data, self.at)
        self.at += struct.calcsize(layout)
        return values

    def count(self, least: int, what: str) -> int:
        """A number of records of at least `least` bytes each, which have to be there."""
        (count,) = self.take("Q", what)
        if count * least > len(self.data) - self.at:
            raise UserError(
                f"{self.file}: {count} {what} do not fit in its {len(self.data)} bytes: truncated, or not of COLMAP"
            )
        return count

    def text(self, what: str) -> str:
        """A text that ends with a zero byte."""
        end = self.data.find(b"\0", self.at)
        if end < 0:
            raise self.truncated(what)
        raw, self.at = self.data[self.at : end], end + 1
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise UserError(f"{self.file}: {what} is no text: damaged, or not of COLMAP") from None

    def finish(self) -> None:
        if self.at != len(self.data):
            raise UserError(f"{self.file}: {len(self.data) - self.at} bytes after its end: damaged, or not of COLMAP")


def _cameras_binary(file: Path) -> Iterator[ModelCamera]:
    names = {number: name for name, (number, _) in CAMERA_MODELS.items()}
    reader = _Reader(file)
    for _ in range(reader.count(24, "cameras")):
        number, model, width, height = reader.take("IiQQ", "a camera")
        where = f"{file}: camera {number}"
        if model in REFUSED_MODELS:
            raise refuse_model(REFUSED_MODELS[model], where)
        if model not in names:
            raise UserError(f"{where}: there is no camera model number {model}: damaged, or of a newer COLMAP")
        values = reader.take("d" * len(CAMERA_MODELS[names[model]][1].split()), where)
        yield model_camera(number, names[model], (width, height), values, where)
    reader.finish()


def _images_binary(file: Path) -> Iterator[ModelImage]:
    """Images whose `sees` are the numbers of points, not yet their rows."""
    reader = _Reader(file)
    for _ in range(reader.count(73, "images")):
        number, *pose, camera = reader.take("I7dI", "an image")
        name = reader.text(f"the name of image {number}")
        where = f"{file}: image {number} ({name})"
        count = reader.count(24, f"keypoints of image {number}")
        # x, y (doubles) and the number of the point (-1: none), 24 bytes in all
        seen = np.frombuffer(reader.data, "<i8", 3 * count, reader.at)[2::3]
        reader.at += 24 * count
        yield ModelImage(name, camera, camera_pose(np.array(pose[:4]), np.array(pose[4:]), where), seen[seen >= 0])
    reader.finish()


def _points_binary(file: Path) -> tuple[Int64[np.ndarray, " n"], Float[np.ndarray, "n 3"]]:
    """Numbers and places of the points."""
    reader = _Reader(file)
    data, size = reader.data, len(reader.data)
    starts = []
    # A point: its number (8 bytes), x, y, z (24), colour (3), error (8), length of its track (8), the track (8 each).
    at = 8
    for _ in range(reader.count(51, "points")):
        starts.append(at)
        at += 51 + 8 * int.from_bytes(data[at + 43 : at + 51], "little")
        if at > size:
            raise reader.truncated(f"point {len(starts)}")
    reader.at = at
    reader.finish()
    if not starts:
        return np.empty(0, dtype=np.int64), np.empty((0, 3))

    def column(kind: str, offset: int) -> np.ndarray:
        """One number of each point: all places in the file seen as such numbers, of which some are taken."""
        return np.ndarray((size - 7,), kind, data, strides=(1,))[np.array(starts) + offset]

    points = np.stack([column("<f8", offset) for offset in (8, 16, 24)], axis=1)
    return _checked(column("<i8", 0), points, file)


def _checked(
    numbers: Int64[np.ndarray, " n"], points: Float[np.ndarray, "n 3"], file: Path
) -> tuple[Int64[np.ndarray, " n"], Float[np.ndarray, "n 3"]]:
    wrong = ~np.isfinite(points).all(1)
    if wrong.any():
        raise UserError(f"{file}: point {numbers[wrong.argmax()]} has a coordinate that is not finite")
    return numbers, points


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file without the white space around them, numbered from 1."""
    try:
        with open(file, encoding="utf-8") as stream:
            for number, line in enumerate(stream, 1):
                yield number, line.strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read as text ({error})") from error


def _entries(file: Path) -> Iterator[tuple[int, str]]:
    """The lines that are neither empty nor comments."""
    return ((number, line) for number, line in _lines(file) if line and not line.startswith("#"))


def _parsed(parse: Callable[[], Any], where: str, expected: str) -> Any:
    """What `parse` returns; where it fails, UserError with what the line should hold."""
    try:
        return parse()
    except (ValueError, IndexError, OverflowError):
        raise UserError(f"{where}: expected {expected}") from None


def _cameras_text(file: Path) -> Iterator[ModelCamera]:
    for number, line in _entries(file):
        where = f"{file}: line {number}"
        words = line.split()
        camera, width, height, *values = _parsed(
            lambda words=words: (int(words[0]), int(words[2]), int(words[3]), *map(float, words[4:])),
            where,
            "CAMERA_ID MODEL WIDTH HEIGHT PARAMS",
        )
        where = f"{where}: camera {camera}"
        if words[1] not in CAMERA_MODELS:
            raise refuse_model(words[1], where)
        yield model_camera(camera, words[1], (width, height), tuple(values), where)


def _images_text(file: Path) -> Iterator[ModelImage]:
    """Images whose `sees` are the numbers of points, not yet their rows."""
    lines = _lines(file)
    for number, line in lines:
        if not line or line.startswith("#"):
            continue
        where = f"{file}: line {number}"
        words = line.split(None, 9)
        values, camera, name = _parsed(
            lambda words=words: (np.array(list(map(float, words[1:8]))), int(words[8]), words[9]),
            where,
            "IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME",
        )
        pose = camera_pose(values[:4], values[4:], f"{where}: image {words[0]} ({name})")
        # The line of keypoints is there even where an image has none, and is empty then.
        keypoints = next(lines, (0, ""))[1].split()
        where, expected = f"{file}: line {number + 1}", "X Y POINT3D_ID for each keypoint of the image above"
        if len(keypoints) % 3:
            raise UserError(f"{where}: expected {expected}")
        seen = _parsed(lambda k=keypoints: np.fromiter(map(int, k[2::3]), np.int64, len(k) // 3), where, expected)
        yield ModelImage(name, camera, pose, seen[seen >= 0])


def _points_text(file: Path) -> tuple[Int64[np.ndarray, " n"], Float[np.ndarray, "n 3"]]:
    """Numbers and places of the points."""
    numbers: list[int] = []
    places: list[float] = []
    for number, line in _entries(file):
        try:
            point, x, y, z, *_ = line.split(None, 4)
            numbers.append(int(point))
            places += (float(x), float(y), float(z))
        except ValueError:
            raise UserError(f"{file}: line {number}: expected POINT3D_ID X Y Z and more") from None
    where = f"{file}: number of a point"
    table = _parsed(lambda: np.array(numbers, dtype=np.int64), where, "one of 64 bits")
    return _checked(table, np.array(places, dtype=np.float64).reshape(-1, 3), file)
