"""The Avazu click logs: a CSV file with a header; the row's id is left out, and the hour becomes hour and weekday."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import numpy as np
from jaxtyping import UInt64

from nerf_dfa.errors import UserError
from nerf_dfa.recommender.criteo import find_files
from nerf_dfa.recommender.source import Rows
from nerf_dfa.recommender.text import Lines, allowed_bytes, as_bytes, read_blocks

HEADER = (
    "id click hour C1 banner_pos site_id site_domain site_category app_id app_domain app_category device_id device_ip "
    "device_model device_type device_conn_type C14 C15 C16 C17 C18 C19 C20 C21"
).split()
_TEXT = allowed_bytes("0123456789abcdefABCDEF-")


class Avazu:
    """path: the file, or a folder with train.csv alone or with dev.csv and test.csv."""

    name = "avazu"
    fields = ("hour", "weekday", *HEADER[3:])

    def __init__(self, path: Path) -> None:
        self.files, self.parts = find_files(path, (".csv",))

    def rows(self, file: int, offset: int = 0, row: int = 2) -> Iterator[Rows]:
        path = self.files[file]
        if offset == 0:
            offset, row = _skip_header(path), 2
        for text, end in read_blocks(path, offset):
            lines = Lines(path, text, row, len(HEADER), ",")
            labels = lines.bits(1, "click")
            values = lines.short_keys(slice(2, len(HEADER)), _TEXT, "expected at most 8 of 0-9, a-f and -")
            keys = np.concatenate([_hour_and_weekday(lines, values[:, 0]), values[:, 1:]], axis=1)
            row += len(labels)
            yield Rows(keys, labels, end, row)


def _skip_header(path: Path) -> int:
    try:
        with open(path, "rb") as file:
            found = file.readline().decode(errors="replace").strip()
            if found.split(",") != HEADER:
                raise UserError(f"{path}, row 1: '{found[:60]}'; expected the header {','.join(HEADER[:4])},...")
            return file.tell()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None


def _hour_and_weekday(lines: Lines, keys: UInt64[np.ndarray, " rows"]) -> UInt64[np.ndarray, "rows 2"]:
    """Of YYMMDDHH as text; each + 1."""
    distinct, inverse = np.unique(keys, return_inverse=True)
    found = np.zeros((len(distinct), 2), np.uint64)
    for i, text in enumerate(as_bytes(distinct)):
        try:
            moment = datetime.strptime(text.tobytes().decode(), "%y%m%d%H")
        except ValueError:
            wrong = (inverse == i)[:, None]
            lines.check(wrong, slice(2, 3), "expected the hour as YYMMDDHH")
        else:
            found[i] = 1 + moment.hour, 1 + moment.weekday()
    return found[inverse]
