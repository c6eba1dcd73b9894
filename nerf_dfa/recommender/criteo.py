"""The Criteo display-advertising data: label, integers I1-I13, categories C1-C26; tabs, no header.

An integer v becomes floor(ln(v)^2), or v - 2 where it is 2 or less, which keeps the two apart. A category is text of
up to 8 hexadecimal digits. What is missing is a value of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Int

from nerf_dfa.errors import UserError
from nerf_dfa.recommender.source import Rows, part_files
from nerf_dfa.recommender.text import Lines, allowed_bytes, read_blocks

INTEGERS, CATEGORIES = 13, 26
COLUMNS = 1 + INTEGERS + CATEGORIES
_HEX = allowed_bytes("0123456789abcdefABCDEF")
_ZERO = 1 << 40  # the key of integer 0; that of a missing one is 0


class Criteo:
    """path: the file, or a folder with train.txt alone or with train.tsv, dev.tsv and test.tsv."""

    name = "criteo"
    fields = (*(f"I{i + 1}" for i in range(INTEGERS)), *(f"C{i + 1}" for i in range(CATEGORIES)))

    def __init__(self, path: Path) -> None:
        self.files, self.parts = find_files(path, (".tsv", ".txt"))

    def rows(self, file: int, offset: int = 0, row: int = 1) -> Iterator[Rows]:
        path = self.files[file]
        for text, end in read_blocks(path, offset):
            lines = Lines(path, text, row, COLUMNS, "\t")
            labels = lines.bits(0, "a label")
            integers, missing = lines.integers(slice(1, 1 + INTEGERS))
            keys = np.empty((len(labels), INTEGERS + CATEGORIES), np.uint64)
            keys[:, :INTEGERS] = np.where(missing, 0, log_squared(integers) + _ZERO)
            keys[:, INTEGERS:] = lines.short_keys(
                slice(1 + INTEGERS, COLUMNS), _HEX, "expected at most 8 hexadecimal digits"
            )
            row += len(labels)
            yield Rows(keys, labels, end, row)


def log_squared(values: Int[np.ndarray, "*shape"]) -> Int[np.ndarray, "*shape"]:
    """floor(ln(v)^2) for v > 2, v - 2 for others."""
    large = np.floor(np.log(np.maximum(values, 1)) ** 2).astype(np.int64)
    return np.where(values > 2, large, values - 2)


def find_files(path: Path, endings: tuple[str, ...]) -> tuple[list[Path], tuple[str, ...]]:
    """A file as it is; of a folder its train, dev and test files, or its train file alone. Raises UserError."""
    if path.is_file():
        return [path], ()
    for ending in endings:
        files, parts = part_files(path, ending)
        if files:
            return files, parts
    for ending in endings:
        if (path / f"train{ending}").is_file():
            return [path / f"train{ending}"], ()
    raise UserError(f"{path}: neither a file nor a folder with {' or '.join(f'train{e}' for e in endings)}")
