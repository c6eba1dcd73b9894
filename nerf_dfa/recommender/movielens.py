"""MovieLens-100k and -1M as click data: a rating of 4 or more is the click, features of user and film are fields.

Three forms are read: RecBole's typed tables (NAME.inter, .user, .item), GroupLens' 100k (u.data, u.user, u.item) and
1M (ratings.dat, users.dat, movies.dat). A film's genres are one value together; of the ZIP code the first digit counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from nerf_dfa.errors import UserError
from nerf_dfa.recommender.source import Rows

CLICK = 4.0  # the least rating that counts as one
GENRES = (
    "unknown Action Adventure Animation Children's Comedy Crime Documentary Drama Fantasy Film-Noir Horror Musical "
    "Mystery Romance Sci-Fi Thriller War Western"
).split()
USER, ITEM = ("age", "gender", "occupation", "zip"), ("year", "genres")

Table = dict[str, tuple[str, ...]]


class MovieLens:
    """path: the folder with the three files."""

    name = "movielens"
    fields = ("user", "item", *USER, *ITEM)
    parts = ()

    def __init__(self, path: Path) -> None:
        inter = sorted(path.glob("*.inter")) if path.is_dir() else []
        if inter:
            self._read, self.files = _read_typed, [inter[0].with_suffix(s) for s in (".inter", ".user", ".item")]
        elif (path / "u.data").exists():
            self._read, self.files = _read_100k, [path / name for name in ("u.data", "u.user", "u.item")]
        elif (path / "ratings.dat").exists():
            self._read, self.files = _read_1m, [path / name for name in ("ratings.dat", "users.dat", "movies.dat")]
        else:
            raise UserError(f"{path}: no folder with *.inter, u.data or ratings.dat")

    def rows(self, file: int, offset: int = 0, row: int = 1) -> Iterator[Rows]:
        size = self.files[0].stat().st_size
        if file or offset:
            return
        ratings, users, items = self._read(*self.files)
        columns = [[rating[0] for rating in ratings], [rating[1] for rating in ratings]]
        columns += [[users[rating[0]][i] for rating in ratings] for i in range(len(USER))]
        columns += [[items[rating[1]][i] for rating in ratings] for i in range(len(ITEM))]
        keys = np.stack([np.unique(column, return_inverse=True)[1] for column in columns], axis=1)
        labels = np.array([rating[2] >= CLICK for rating in ratings], np.uint8)
        yield Rows(keys.astype(np.uint64), labels, size, 1 + len(ratings))


def _read_typed(ratings: Path, users: Path, items: Path) -> tuple[list[tuple[str, str, float]], Table, Table]:
    """RecBole's: tabs, a header of name:type."""

    def columns(path: Path, names: Sequence[str]) -> list[list[str]]:
        rows = _lines(path, "\t")
        head = [cell.partition(":")[0] for cell in rows[0]]
        for name in names:
            if name not in head:
                raise UserError(f"{path}, row 1: no column '{name}'")
        return [[row[head.index(name)] for name in names] for row in rows[1:]]

    user_rows = columns(users, ("user_id", "age", "gender", "occupation", "zip_code"))
    item_rows = columns(items, ("item_id", "release_year", "class"))
    known_users = {row[0]: _user(*row[1:]) for row in user_rows}
    known_items = {row[0]: (row[1], _genres(row[2].split())) for row in item_rows}
    rated = columns(ratings, ("user_id", "item_id", "rating"))
    return _ratings(ratings, rated, 2, known_users, known_items), known_users, known_items


def _read_100k(ratings: Path, users: Path, items: Path) -> tuple[list[tuple[str, str, float]], Table, Table]:
    known_users = {row[0]: _user(*row[1:]) for row in _lines(users, "|", 5)}
    known_items = {}
    for row in _lines(items, "|", 5 + len(GENRES)):
        genres = [name for name, flag in zip(GENRES, row[5:], strict=True) if flag == "1"]
        known_items[row[0]] = (row[2][-4:], _genres(genres))
    return _ratings(ratings, _lines(ratings, "\t", 4), 1, known_users, known_items), known_users, known_items


def _read_1m(ratings: Path, users: Path, items: Path) -> tuple[list[tuple[str, str, float]], Table, Table]:
    known_users = {row[0]: _user(row[2], row[1], *row[3:]) for row in _lines(users, "::", 5)}
    known_items = {}
    for item, title, genres in _lines(items, "::", 3):
        year = re.search(r"\((\d{4})\)\s*$", title)
        known_items[item] = (year[1] if year else "", _genres(genres.split("|")))
    return _ratings(ratings, _lines(ratings, "::", 4), 1, known_users, known_items), known_users, known_items


def _user(age: str, gender: str, occupation: str, zip_code: str) -> tuple[str, ...]:
    return age, gender, occupation, zip_code[:1]


def _genres(names: Sequence[str]) -> str:
    return "|".join(sorted(names))


def _lines(path: Path, delimiter: str, columns: int | None = None) -> list[list[str]]:
    """The cells of every row; all have as many, by default as the first. Raises UserError that names file and row."""
    try:
        text = path.read_text(encoding="latin-1" if columns else "utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    # Not splitlines, which also cuts at characters that a title may have.
    rows = [line.split(delimiter) for line in text.replace("\r\n", "\n").removesuffix("\n").split("\n")]
    if not text:
        raise UserError(f"{path}: the file has no rows")
    columns = columns or len(rows[0])
    _first(rows, lambda row: len(row) != columns, path, 1, lambda row: f"{len(row)} columns; expected {columns}")
    return rows


def _ratings(
    path: Path, rows: Sequence[Sequence[str]], first_row: int, users: Table, items: Table
) -> list[tuple[str, str, float]]:
    if not rows:
        raise UserError(f"{path}: the file has no rows")
    number = re.compile(r"[0-4](\.\d*)?|5(\.0*)?")
    for wrong, what in (
        (lambda row: row[0] not in users, lambda row: f"user {row[0]} is not in the table of users"),
        (lambda row: row[1] not in items, lambda row: f"item {row[1]} is not in the table of items"),
        (lambda row: not number.fullmatch(row[2]), lambda row: f"rating '{row[2]}'; expected a number from 0 to 5"),
    ):
        _first(rows, wrong, path, first_row, what)
    return [(row[0], row[1], float(row[2])) for row in rows]


def _first(rows: Sequence, wrong: Callable, path: Path, first_row: int, what: Callable[..., str]) -> None:
    """Raises UserError for the first row that is wrong."""
    for number, row in enumerate(rows):
        if wrong(row):
            raise UserError(f"{path}, row {first_row + number}: {what(row)}")
