"""Studies of view synthesis: rows that differ in how they learn, columns that differ in scene and field.

A study is a file of sections, every setting a flag of train.py:

    [study]
    title = Every rule at the same budget
    flags = --N_iters 3000            # of all runs
    seeds = 3
    rates = 1 2                       # tried by each cell, times the lrate of its flags, on held-out training views,
                                      # and beyond them where the best lies at the edge
    search_steps = 1000               # of these trials (default, and at most: as many as the runs have)
    search_seeds = 2                  # of each trial (default 1); the mean counts
    figure = dots                     # or pictures, or alignment

    [column lego, grid]
    flags = --config configs/fast/lego_100.txt --datadir nerf_synthetic/lego

    [row dfa]
    flags = --learning_rule dfa

A cell is trained with the study's flags, then its column's, then its row's; the last one counts. A row may leave
columns out with `only = column; column`, and have its own `search_steps`, for what a short trial does not see, or one
`rate` for which none is tried. A `datadir` is looked for in the folder of the data, a `config` beside the program's
own.
"""

from __future__ import annotations

import configparser
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from nerf_dfa.errors import UserError
from nerf_dfa.nerf.flags import parse

HOME = Path(__file__).parents[2]  # of the program: configs/ lies there
FIGURES = ("dots", "pictures", "alignment")
KNOWN = {
    "study": {"title", "flags", "seeds", "rates", "search_steps", "search_seeds", "figure", "note"},
    "column": {"flags", "scene"},
    "row": {"flags", "only", "rate", "search_steps"},
}


@dataclass(frozen=True)
class Column:
    """A scene and a field. scene: its name in tables of published numbers, if it is to be compared with them."""

    name: str
    flags: tuple[str, ...]
    scene: str | None = None


@dataclass(frozen=True)
class Row:
    """A way to learn. only: names of the columns that it has a cell in; empty: all.

    search_steps: None: the study's. rate: a factor of the learning rate for which none is searched.
    """

    name: str
    flags: tuple[str, ...]
    only: tuple[str, ...] = ()
    search_steps: int | None = None
    rate: float | None = None


@dataclass(frozen=True)
class Study:
    """See the module. rates: factors of the learning rate; one factor: nothing is searched."""

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    flags: tuple[str, ...] = ()
    seeds: int = 3
    rates: tuple[float, ...] = (1.0,)
    search_steps: int | None = None
    search_seeds: int = 1
    figure: str = "dots"
    note: str = ""

    def cells(self) -> Iterator[tuple[Row, Column]]:
        for row in self.rows:
            for column in self.columns:
                if not row.only or column.name in row.only:
                    yield row, column

    def searches(self, row: Row) -> bool:
        """Whether the row's cells try learning rates."""
        return row.rate is None and len(self.rates) > 1

    def arguments(self, row: Row, column: Column, data: Path) -> list[str]:
        """train.py's arguments for a cell, with whole paths. Raises UserError for what train.py would refuse."""
        flags = [*self.flags, *column.flags, *row.flags]
        for place, flag in enumerate(flags[:-1]):
            if flag == "--config":
                flags[place + 1] = str(HOME / flags[place + 1])
            if flag == "--datadir":
                flags[place + 1] = str(data / flags[place + 1])
        try:
            parse(flags)
        except UserError as error:
            raise UserError(f"study {self.name}, row {row.name}, column {column.name}: {error}") from None
        return flags


def read_study(path: Path) -> Study:
    """The study that a file states.

    Raises:
        UserError: the file is missing or no such file, or a section or key is unknown or wrong, named.
    """
    parser = configparser.ConfigParser(interpolation=None, inline_comment_prefixes=("#",), delimiters=("=",))
    parser.optionxform = str
    try:
        parser.read_string(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    except configparser.Error as error:
        raise UserError(f"{path}: " + " ".join(str(error).split())) from None
    head: dict[str, str] = {}
    columns, rows = [], []
    for section in parser.sections():
        kind, _, name = section.partition(" ")
        values = dict(parser[section])
        if kind not in KNOWN or bool(name) == (kind == "study"):
            raise UserError(f"{path}: section [{section}]: expected [study], [column NAME] or [row NAME]")
        for key in values:
            if key not in KNOWN[kind]:
                raise UserError(f"{path}: [{section}]: unknown key '{key}'; there are {', '.join(sorted(KNOWN[kind]))}")
        flags = tuple(shlex.split(values.get("flags", "")))
        if kind == "study":
            head = values
        elif kind == "column":
            columns.append(Column(name, flags, values.get("scene")))
        else:
            only = tuple(part.strip() for part in values.get("only", "").split(";") if part.strip())
            rate = _number(path, "rate", values["rate"], float) if "rate" in values else None
            rows.append(Row(name, flags, only, _steps(path, values), rate))
    names = {column.name for column in columns}
    for row in rows:
        for name in row.only:
            if name not in names:
                raise UserError(f"{path}: [row {row.name}]: only = {name}: there is no such column")
    if not columns or not rows:
        raise UserError(f"{path}: a study needs at least one [column NAME] and one [row NAME]")
    if head.get("figure", "dots") not in FIGURES:
        raise UserError(f"{path}: figure = {head['figure']}: expected one of {', '.join(FIGURES)}")
    rates = tuple(_number(path, "rates", rate, float) for rate in head.get("rates", "1").split())
    return Study(
        path.stem,
        head.get("title", path.stem),
        tuple(columns),
        tuple(rows),
        tuple(shlex.split(head.get("flags", ""))),
        _number(path, "seeds", head.get("seeds", "3"), int),
        rates,
        _steps(path, head),
        _number(path, "search_seeds", head.get("search_seeds", "1"), int),
        head.get("figure", "dots"),
        head.get("note", ""),
    )


def reduced(
    study: Study, steps: int | None, seeds: int | None, columns: list[str] | None, flags: str | None = None
) -> Study:
    """The study at another budget, or of some of its columns alone; flags: train.py's, in one string, for all runs.

    Raises:
        UserError: the study lacks a column, or the flags have an open quotation.
    """
    chosen = [column.name for column in study.columns] if columns is None else columns
    for name in chosen:
        if name not in {column.name for column in study.columns}:
            have = "; ".join(column.name for column in study.columns)
            raise UserError(f"study {study.name} has no column '{name}'; it has {have}")
    try:
        words = [] if flags is None else shlex.split(flags)
    except ValueError as error:
        raise UserError(f"--flags {flags}: {error}") from None
    last = [part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])]
    if steps is not None:
        last += ["--N_iters", str(steps)]
    rows = tuple(replace(row, flags=(*row.flags, *last)) for row in study.rows)  # after every flag of the file
    kept = tuple(column for column in study.columns if column.name in chosen)
    rows = tuple(row for row in rows if not row.only or set(row.only) & set(chosen))
    return replace(study, columns=kept, rows=rows, seeds=seeds or study.seeds)


def _steps(path: Path, values: dict[str, str]) -> int | None:
    """search_steps, where it is stated."""
    return _number(path, "search_steps", values["search_steps"], int) if "search_steps" in values else None


def _number(path: Path, key: str, text: str, kind: type[int] | type[float]) -> int | float:
    try:
        value = kind(text)
    except ValueError:
        value = -1
    if not 0 < value < float("inf"):
        raise UserError(f"{path}: {key} = {text}: expected a {'whole ' if kind is int else ''}number above 0")
    return value
