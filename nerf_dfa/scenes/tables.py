"""Entries of the JSON files that describe scenes, each checked as it is read."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nerf_dfa.errors import UserError
from nerf_dfa.scenes.scene import check_pose

LONGEST_NAME = 200  # of a file or folder, in characters; systems refuse to look for names of more than 255 bytes


def read_json(file: Path, holds: str) -> dict[str, Any]:
    """The object in a JSON file; `holds` names in messages what is expected in it.

    Raises:
        UserError: the file is missing, no text, no JSON or no object.
    """
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{file}: not valid JSON at line {error.lineno}, column {error.colno}: {error.msg}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read as text ({error})") from error
    if not isinstance(table, dict):
        raise UserError(f"{file}: expected a JSON object with {holds}")
    return table


def get(table: Any, key: str, where: Path | str) -> Any:
    """The value of a key; UserError naming `where` if there is none."""
    if not isinstance(table, dict) or key not in table:
        raise UserError(f"{where}: the key {key} is missing")
    return table[key]


def number(table: dict[str, Any], key: str, where: Path | str, default: float | None = None) -> float:
    """The finite number of a key, or the default where there is one and no key; else UserError naming `where`."""
    value = get(table, key, where) if default is None else table.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"{where}: {key} is {value!r}; expected a number")
    return float(value)


def read_frames(table: dict[str, Any], file: Path) -> list[Any]:
    """The list of frames; UserError if it is missing, empty or no list."""
    frames = get(table, "frames", file)
    if not isinstance(frames, list) or not frames:
        raise UserError(f"{file}: frames is empty or no list; expected at least one view")
    return frames


def file_path(frame: Any, where: str, key: str = "file_path") -> str:
    """The name of a frame's image; UserError naming `where` if it is missing or no name that a file can have."""
    path = get(frame, key, where)
    if not isinstance(path, str) or not path or "\0" in path or max(map(len, path.split("/"))) > LONGEST_NAME:
        shown = repr(path) if len(repr(path)) < 80 else f"{repr(path)[:80]}..."
        raise UserError(f"{where}: {key} is {shown}; expected the name of an image")
    return path


def existing_image(root: Path, path: str, suffixes: Sequence[str]) -> str | None:
    """The file that a file_path means, with one of the suffixes added where it has none; None if there is none.

    It is named relative to root, or absolutely where it lies elsewhere. An absolute path that is not there, as in a
    scene that came from another computer, is looked for in root by as much of its end as is found there.
    """
    parts = Path(path.replace("\\", "/")).parts
    absolute = Path(path).is_absolute() or PureWindowsPath(path).is_absolute()
    elsewhere = None
    for start in range(len(parts) if absolute else 1):
        for suffix in ("", *suffixes):
            name = f"{Path(*parts[start:]).as_posix()}{suffix}"
            if not (root / name).is_file():
                continue
            if elsewhere is None and Path(name).is_absolute():
                elsewhere = name
            elif elsewhere is None or (root / name).samefile(elsewhere):
                return name
    return elsewhere


def check_distinct(frames: Iterable[tuple[str, Path]]) -> None:
    """UserError if two frames have the same image; frames: "FILE: frame N (PATH)" and the image of each."""
    first: dict[Path, str] = {}
    for where, image in frames:
        other = first.setdefault(image.resolve(), where)
        if other != where:
            raise UserError(f"{where}: the same image as {other.removeprefix(where.partition(': frame ')[0] + ': ')}")


def check_splits(splits: dict[str, list[tuple[str, Path]]]) -> None:
    """`check_distinct` for the frames of each split, and for those of train and test together.

    val may hold views of the others.
    """
    check_distinct(splits["train"] + splits["test"])
    check_distinct(splits["val"])


def transform_matrix(frame: dict[str, Any], where: str) -> Float[Tensor, "3 4"]:
    """A frame's camera-to-world matrix without its last row, in float64; UserError unless it is a rigid motion."""
    rows = get(frame, "transform_matrix", where)
    try:
        matrix = torch.tensor(rows, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        matrix = torch.empty(0)
    if matrix.shape != (4, 4):
        raise UserError(f"{where}: transform_matrix is not 4 rows of 4 numbers")
    check_pose(matrix[:3], where)
    if matrix[3].tolist() != [0, 0, 0, 1]:
        raise UserError(f"{where}: the last row of transform_matrix is not 0 0 0 1")
    return matrix[:3]
