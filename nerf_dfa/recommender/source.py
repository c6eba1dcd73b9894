"""What a data set has to offer to become a cache: blocks of rows, each field's value as a number of 64 bits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8, UInt64


@dataclass(frozen=True)
class Rows:
    """Consecutive rows. keys: equal for equal values of a field; labels: 1 for a click.

    offset, row: where the file goes on after them, for `Source.rows`.
    """

    keys: UInt64[np.ndarray, "rows fields"]
    labels: UInt8[np.ndarray, " rows"]
    offset: int
    row: int


@runtime_checkable
class Source(Protocol):
    """A data set's files, in the order in which they are read.

    name: of the format; fields: names; files: all that the rows come from; parts: of files that each hold one of
    "train", "val" and "test", in the order of the first files, or empty where rows are shared out later.
    """

    name: str
    fields: tuple[str, ...]
    files: Sequence[Path]
    parts: tuple[str, ...]

    def rows(self, file: int, offset: int = 0, row: int = 1) -> Iterator[Rows]:
        """The rows of a file from a place that `Rows` told. Raises UserError that names file and row."""


PART_FILES = {"train": ("train",), "val": ("dev", "valid", "val"), "test": ("test",)}


def part_files(folder: Path, ending: str) -> tuple[list[Path], tuple[str, ...]]:
    """The files train, dev (or valid, val) and test of a folder, if all three are there; otherwise nothing."""
    found = {
        part: next((p for name in names if (p := folder / f"{name}{ending}").is_file()), None)
        for part, names in PART_FILES.items()
    }
    if None in found.values():
        return [], ()
    return [path for path in found.values() if path], tuple(found)
