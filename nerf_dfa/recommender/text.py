"""Delimited text in blocks of many lines, cut and converted by NumPy; rows are counted only to name a wrong one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np
from jaxtyping import Bool, Int, UInt8, UInt64

from nerf_dfa.errors import UserError

BLOCK = 1 << 23  # bytes
_MASKS = np.array([(1 << 8 * length) - 1 for length in range(9)], dtype=np.uint64)
_POWERS = 10.0 ** np.arange(7, -1, -1)


class Lines:
    """Whole lines of a file, each of `columns` columns.

    first_row: number of the first line, from 1. Raises UserError that names file and row for a line with more or fewer
    columns or a null character.
    """

    def __init__(self, path: Path, text: bytes, first_row: int, columns: int, delimiter: str) -> None:
        self.path, self.first_row = path, first_row
        # Eight bytes in front, so that the eight bytes before an end are always there.
        self._text = np.frombuffer(b"\n" * 8 + text + (b"" if text.endswith(b"\n") else b"\n"), np.uint8)
        cuts = np.flatnonzero((self._text == ord(delimiter)) | (self._text == ord("\n")))[8:]
        is_end = self._text[cuts] == ord("\n")
        self._check_cuts(text, is_end, columns, delimiter)
        self.ends: Int[np.ndarray, "rows columns"] = cuts.reshape(-1, columns)
        self.starts: Int[np.ndarray, "rows columns"] = np.concatenate([[8], cuts[:-1] + 1]).reshape(-1, columns)
        if self._text[self.ends[0, -1] - 1] == ord("\r"):
            self.ends = self.ends.copy()
            self.ends[:, -1] -= self._text[self.ends[:, -1] - 1] == ord("\r")
        self.lengths: Int[np.ndarray, "rows columns"] = self.ends - self.starts
        if not self._text.all():
            row = np.searchsorted(self.ends[:, -1], np.flatnonzero(self._text == 0)[0])
            self.fail(int(row), "a null character")

    def _check_cuts(self, text: bytes, is_end: Bool[np.ndarray, " cuts"], columns: int, delimiter: str) -> None:
        if len(is_end) % columns == 0:
            table = is_end.reshape(-1, columns)
            if table[:, -1].all() and not table[:, :-1].any():
                return
        for number, line in enumerate(text.split(b"\n")):
            found = line.count(delimiter.encode()) + 1
            if found != columns:
                self.fail(number, f"{found} columns; expected {columns}")

    def keys(self, columns: slice) -> UInt64[np.ndarray, "rows _"]:
        """The text of each cell as one number: its last 8 bytes, the first the most significant; 0 for no text."""
        eights = np.ndarray(len(self._text) - 7, ">u8", self._text, strides=(1,))  # at every byte, the 8 from there on
        taken = eights[self.ends[:, columns] - 8].astype(np.uint64)
        return taken & _MASKS[np.minimum(self.lengths[:, columns], 8)]

    def short_keys(self, columns: slice, allowed: Bool[np.ndarray, " 256"], expected: str) -> UInt64[np.ndarray, "r c"]:
        """The same for cells of at most 8 bytes, all `allowed` (by byte; 0 stands for no text); else a UserError."""
        keys = self.keys(columns)
        wrong = ~allowed[as_bytes(keys)].all(-1) | (self.lengths[:, columns] > 8)
        self.check(wrong, columns, expected)
        return keys

    def integers(self, columns: slice) -> tuple[Int[np.ndarray, "rows _"], Bool[np.ndarray, "rows _"]]:
        """Whole numbers, and which cells are empty. Raises UserError for what is neither."""
        lengths = self.lengths[:, columns]
        digits = as_bytes(self.keys(columns)).copy()
        first = np.take_along_axis(digits, np.maximum(8 - lengths, 0)[..., None] % 8, -1)[..., 0]
        negative = (first == ord("-")) & (lengths > 1) & (lengths <= 8)
        np.put_along_axis(
            digits, np.maximum(8 - lengths, 0)[..., None] % 8, np.where(negative, 0, first)[..., None], -1
        )
        present = digits != 0
        digits -= ord("0")  # others than digits become 10 or more
        wrong = ((digits > 9) & present).any(-1) & (lengths <= 8)
        values = (np.where(present, digits, 0) @ _POWERS).astype(np.int64)
        values = np.where(negative, -values, values)
        for row, column in np.argwhere(lengths > 8).tolist():
            text = self.cell(row, column + (columns.start or 0))
            if text.removeprefix("-").isdecimal() and text.isascii() and len(text) <= 18:
                values[row, column] = int(text)
            else:
                wrong[row, column] = True
        self.check(wrong, columns, "expected a whole number or nothing")
        return values, lengths == 0

    def bits(self, column: int, name: str) -> UInt8[np.ndarray, " rows"]:
        """Cells that are 0 or 1. Raises UserError for others."""
        keys = self.keys(slice(column, column + 1))
        wrong = ((keys != ord("0")) & (keys != ord("1"))) | (self.lengths[:, column : column + 1] != 1)
        self.check(wrong, slice(column, column + 1), f"expected {name} 0 or 1")
        return (keys[:, 0] == ord("1")).astype(np.uint8)

    def cell(self, row: int, column: int) -> str:
        return self._text[self.starts[row, column] : self.ends[row, column]].tobytes().decode(errors="replace")

    def check(self, wrong: Bool[np.ndarray, "rows _"], columns: slice, expected: str) -> None:
        """Raises UserError that names the first cell of `columns` that is wrong."""
        if wrong.any():
            row, column = np.argwhere(wrong)[0].tolist()
            column += columns.start or 0
            self.fail(row, f"column {column + 1} is '{self.cell(row, column)[:40]}'; {expected}")

    def fail(self, row: int, what: str) -> NoReturn:
        raise UserError(f"{self.path}, row {self.first_row + row}: {what}")


def as_bytes(keys: UInt64[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape 8"]:
    """The text of keys; unused bytes, in front, are 0."""
    return keys.astype(">u8").view(np.uint8).reshape(*keys.shape, 8)


def allowed_bytes(characters: str) -> Bool[np.ndarray, " 256"]:
    """A table for short_keys: these, and no text."""
    allowed = np.zeros(256, dtype=bool)
    allowed[[0, *characters.encode()]] = True
    return allowed


def read_blocks(path: Path, start: int = 0) -> Iterator[tuple[bytes, int]]:
    """Whole lines from byte `start` on, about BLOCK bytes at a time, and where the next ones begin.

    Raises UserError for a file that cannot be read.
    """
    try:
        with open(path, "rb") as file:
            file.seek(start)
            while block := file.read(BLOCK):
                block += file.readline()
                yield block, file.tell()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
