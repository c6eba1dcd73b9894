"""Everything that is wrong with a scene's folder, found without the loaders, which stop at the first mistake."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nerf_dfa.errors import UserError
from nerf_dfa.scenes import images
from nerf_dfa.scenes.photographs import load_photographs
from nerf_dfa.scenes.scene import check_pose
from nerf_dfa.scenes.tables import existing_image, file_path, read_frames, read_json, transform_matrix

IMAGE_SUFFIXES = (*images.IMAGE_SUFFIXES, ".exr")
KINDS = {3: "RGB", 4: "RGBA"}
# Wider images are slow to train on a CPU and rarely sharp to the pixel.
COMFORTABLE_WIDTH = 1000
# Pictures that lie beside the photographs and have no pose of their own.
COMPANIONS = re.compile(r"(^|[_.\-/])(depth|normal|mask|albedo)s?([_.\-/]|$)", re.IGNORECASE)


class View(NamedTuple):
    """What the folder says of one view: the image's file relative to it, the pose if it is sound, the list it is in."""

    name: str | None
    pose: Float[Tensor, "3 4"] | None
    where: str


class Picture(NamedTuple):
    """One image as decoded. digest: of its pixels."""

    width: int
    height: int
    channels: int
    digest: bytes


def list_views(root: Path, image_folder: str = "images") -> tuple[list[View], list[str]]:
    """The views that a scene's folder lists, and one line for each thing that is wrong with the lists.

    Read are transforms_{train,val,test}.json, transforms.json or poses_bounds.npy; other formats list none.

    Args:
        root: the scene's folder.
        image_folder: where the images of poses_bounds.npy are.
    """
    problems: list[str] = []
    views: list[View] = []
    tables = [root / f"transforms_{split}.json" for split in ("train", "val", "test")]
    if not tables[0].is_file():
        tables = [root / "transforms.json"]
    tables = [table for table in tables if table.is_file()]
    if tables:
        views = [view for table in tables for view in _json_views(root, table, problems)]
    elif (root / "poses_bounds.npy").is_file():
        views = _llff_views(root, root / image_folder, problems)
    return views, problems + _duplicates(views)


def look_at_images(root: Path, names: Sequence[str]) -> tuple[dict[str, Picture], list[str]]:
    """Decodes the images of a scene, named relative to its folder, and says in one line each what is wrong.

    Images that lie among them and are not named are reported too, but for maps of depth, normals and the like.
    Without names, all images below the folder are looked at.
    """
    if not names:
        names = _names(root, (path for path in root.rglob("*") if path.is_file()))
        return _decode(root, names)
    pictures, problems = _decode(root, names)
    problems += _unlike(pictures)
    seen: dict[bytes, str] = {}
    for name, picture in pictures.items():
        if (first := seen.setdefault(picture.digest, name)) != name:
            problems.append(f"{root / name}: the same picture as {first}")
    folders = sorted({str(PurePosixPath(name).parent) for name in names})
    lying = [name for folder in folders for name in images_in(root, root / folder)]
    listed = set(names)
    problems += [without_pose(root, n) for n in lying if n not in listed and not COMPANIONS.search(n)]
    return pictures, problems


def without_pose(root: Path, name: str) -> str:
    """The line for an image that lies among those of a scene and is not in its lists."""
    return f"{root / name}: an image without a pose"


def suitable_factor(width: int) -> int:
    """The least power of two that makes images of this width at most COMFORTABLE_WIDTH pixels wide."""
    return 2 ** max(0, math.ceil(math.log2(width / COMFORTABLE_WIDTH)))


def images_in(root: Path, folder: Path) -> list[str]:
    """Names relative to root of the images in a folder, sorted."""
    return _names(root, (path for path in folder.iterdir() if path.is_file())) if folder.is_dir() else []


def _names(root: Path, files: Iterable[Path]) -> list[str]:
    return sorted(
        file.relative_to(root).as_posix()
        for file in files
        if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")
    )


def _json_views(root: Path, table: Path, problems: list[str]) -> list[View]:
    """The frames of one transforms file; what is wrong with them is added to problems."""
    try:
        frames = read_frames(read_json(table, "frames"), table)
    except UserError as error:
        problems.append(str(error))
        return []
    views = []
    for index, frame in enumerate(frames):
        where, name, pose = f"{table}: frame {index}", None, None
        try:
            written = file_path(frame, where)
            where = f"{where} ({written})"
            name = _existing(root, written)
            pose = transform_matrix(frame, where)
        except UserError as error:
            problems.append(str(error))
        views.append(View(name, pose, where))
    return views


def _existing(root: Path, path: str) -> str:
    """The file that a file_path means (`existing_image`); where there is none, its likeliest name."""
    if found := existing_image(root, path, IMAGE_SUFFIXES):
        return found
    name = PurePosixPath(path.replace("\\", "/")).as_posix()
    return name if name.lower().endswith(IMAGE_SUFFIXES) else f"{name}.png"


def _sound(pose: Float[Tensor, "3 4"], where: str, problems: list[str]) -> Float[Tensor, "3 4"] | None:
    try:
        check_pose(pose, where)
    except UserError as error:
        problems.append(str(error))
        return None
    return pose


def _llff_views(root: Path, folder: Path, problems: list[str]) -> list[View]:
    """The rows of poses_bounds.npy, paired with the images in the order of their names."""
    file = root / "poses_bounds.npy"
    names = [name for name in images_in(root, folder) if not COMPANIONS.search(name)]
    try:
        array = np.load(file, allow_pickle=False)
        table = torch.from_numpy(array.astype(np.float64)).reshape(-1, 17)
    except (OSError, ValueError, EOFError, RuntimeError):
        problems.append(f"{file}: not a NumPy array of 17 numbers per image")
        return [View(name, None, f"{file}: image {name}") for name in names]
    if len(names) != len(table):
        problems.append(f"{file} has {len(table)} poses, but {folder} {len(names)} images")
    views = []
    for index, row in enumerate(table):
        where = f"{file}: view {index}"
        down, right, backwards, centre, hwf = row[:15].reshape(3, 5).unbind(1)
        pose = _sound(torch.stack([right, -down, backwards, centre], dim=1), where, problems)
        if not (hwf.isfinite() & (hwf > 0)).all():
            problems.append(f"{where}: height, width, focal length are {hwf.tolist()}; expected positive numbers")
        near, far = row[15:].tolist()
        if not 0 < near < far < float("inf"):
            problems.append(f"{where}: depth bounds {near:g}, {far:g}; expected 0 < near < far, both finite")
        views.append(View(names[index] if index < len(names) else None, pose, where))
    return views + [View(name, None, f"{file}: image {name}") for name in names[len(table) :]]


def _decode(root: Path, names: Sequence[str]) -> tuple[dict[str, Picture], list[str]]:
    """Each image that can be decoded, and one line for each that cannot."""

    def decode(name: str) -> Picture | str:
        try:
            pixels = load_photographs([root / name], [None])[0]
        except UserError as error:
            return str(error)
        height, width, channels = pixels.shape
        digest = hashlib.blake2b(pixels.numpy().tobytes(), digest_size=16).digest()
        return Picture(width, height, channels, digest)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = dict(zip(names, pool.map(decode, names), strict=True))
    pictures = {name: result for name, result in found.items() if isinstance(result, Picture)}
    return pictures, [result for result in found.values() if isinstance(result, str)]


def _unlike(pictures: dict[str, Picture]) -> list[str]:
    """One line for each image that differs in size or channels from most."""
    if not pictures:
        return []
    width, height = Counter((p.width, p.height) for p in pictures.values()).most_common(1)[0][0]
    channels = Counter(p.channels for p in pictures.values()).most_common(1)[0][0]
    problems = []
    for name, p in pictures.items():
        if (p.width, p.height) != (width, height):
            problems.append(f"{name}: {p.width}x{p.height} pixels; most images have {width}x{height}")
        if p.channels != channels:
            problems.append(f"{name}: {KINDS[p.channels]}; most images are {KINDS[channels]}")
    return problems


def _duplicates(views: Sequence[View]) -> list[str]:
    """One line for each view of a list whose image or pose another view of that list has."""
    names: dict[tuple[str, str], str] = {}
    poses: dict[tuple[str, bytes], View] = {}
    problems = []
    for view in views:
        table, _, frame = view.where.partition(": ")
        if view.name is not None and (first := names.setdefault((table, view.name), frame)) != frame:
            problems.append(f"{view.where}: the same image as {first}")
        if view.pose is not None:
            other = poses.setdefault((table, view.pose.numpy().tobytes()), view)
            if other.name != view.name:
                problems.append(f"{view.where}: the same pose as {other.where.removeprefix(f'{table}: ')}")
    return problems
