"""A data set as a file of fixed-size records, mapped into memory, and a JSON that says what made it.

    FOLDER/cache.json        what made it, sizes of the fields, rows by part; it stands there when all is done
    FOLDER/rows.bin          a record for each row: its fields' indices in 1, 2 or 4 bytes each, its label in 1
    FOLDER/vocabulary.npz    the keys of every field's indices from 1 on (vocabulary.py)

Made in two passes over the files: one counts values, one writes records. An interrupted one goes on where it stopped
(unfinished.json says what it is of). Memory: blocks of a few MB, counts up to a bound, and the vocabulary.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int, UInt8
from tqdm import tqdm

from nerf_dfa.errors import UserError
from nerf_dfa.files import alone, write_text, written_whole
from nerf_dfa.recommender.source import Rows, Source
from nerf_dfa.recommender.vocabulary import HELD, Counts, Run, frequent, indices, write_run

VERSION = 1
NOTED = 1 << 20  # rows after which the place is written down
_EDGE = 1 << 20  # bytes at each end of a file that are part of its fingerprint


@dataclass(frozen=True)
class Layout:
    """How a record of fields with these numbers of indices is laid out: wide fields first, the label last."""

    sizes: tuple[int, ...]

    def groups(self) -> list[tuple[str, int, int, list[int]]]:
        """Type, first and last byte, and fields of each group of equally wide ones."""
        groups, start = [], 0
        for kind, low, high in (("<u4", 1 << 16, 1 << 32), ("<u2", 1 << 8, 1 << 16), ("u1", 0, 1 << 8)):
            fields = [i for i, size in enumerate(self.sizes) if low < size <= high]
            if fields:
                groups.append((kind, start, start + np.dtype(kind).itemsize * len(fields), fields))
                start = groups[-1][2]
        return groups

    @property
    def bytes(self) -> int:
        """Of a record."""
        return self.groups()[-1][2] + 1

    def encode(
        self, found: Int[np.ndarray, "rows fields"], labels: UInt8[np.ndarray, " rows"]
    ) -> UInt8[np.ndarray, "rows bytes"]:
        records = np.empty((len(labels), self.bytes), np.uint8)
        for kind, start, end, fields in self.groups():
            records[:, start:end].view(kind)[...] = found[:, fields]
        records[:, -1] = labels
        return records

    def decode(
        self, records: UInt8[np.ndarray, "rows bytes"]
    ) -> tuple[Int[np.ndarray, "rows fields"], Float32[np.ndarray, " rows"]]:
        """Indices of one table that holds all fields one after the other, and labels."""
        found = np.empty((len(records), len(self.sizes)), np.int64)
        offsets = np.cumsum([0, *self.sizes[:-1]])
        for kind, start, end, fields in self.groups():
            found[:, fields] = records[:, start:end].view(kind)
        return found + offsets, records[:, -1].astype(np.float32)


@dataclass(frozen=True)
class Cache:
    """An opened cache. parts: rows of "train", "val" and "test" in this order, or of "all".

    made_of: format, files and settings, as plain values.
    """

    folder: Path
    layout: Layout
    parts: dict[str, int]
    made_of: dict[str, Any]

    @property
    def rows(self) -> int:
        return sum(self.parts.values())

    def records(self) -> np.memmap:
        """All records, each one value."""
        return np.memmap(self.folder / "rows.bin", np.dtype((np.void, self.layout.bytes)), "r", shape=(self.rows,))


def open_cache(folder: Path) -> Cache:
    """Raises UserError for a folder without a cache, or with a half-written or damaged one."""
    if not (folder / "cache.json").exists():
        if (folder / "unfinished.json").exists():
            raise UserError(f"{folder} is half written; the command that began it goes on with it")
        raise UserError(f"{folder}: no cache there; --data names the files to make it from")
    found = _read_json(folder / "cache.json")
    try:
        made = found["made_of"]
        layout = Layout(tuple(map(int, found["sizes"])))
        cache = Cache(folder, layout, dict(found["parts"]), made)
        right = made["version"] == VERSION and len(made["fields"]) == len(layout.sizes)
    except (KeyError, TypeError, ValueError):
        right = False
    if not right:
        raise UserError(f"{folder / 'cache.json'} is not of this version of the program; remove the folder")
    size = (folder / "rows.bin").stat().st_size if (folder / "rows.bin").exists() else 0
    if size != cache.rows * layout.bytes:
        raise UserError(
            f"{folder / 'rows.bin'} has {size} bytes; expected {cache.rows} rows of {layout.bytes}: remove the folder"
        )
    return cache


def make_cache(source: Source, folder: Path, min_count: int, quiet: bool = False, held: int = HELD) -> Cache:
    """The cache of a data set: made, finished, or opened if it is there.

    min_count: values seen less often share one index. held: see vocabulary.py. quiet: no progress bar.
    Raises UserError for files that are wrong, for a folder that holds something else, and where another process makes
    the cache.
    """
    made = {
        "version": VERSION,
        "format": source.name,
        "fields": list(source.fields),
        "min_count": min_count,
        "files": [{"name": path.name, **fingerprint(path)} for path in source.files],
        "parts": list(source.parts),
    }
    whole, lock = folder / "cache.json", folder / ".lock"
    if not whole.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with alone(lock):
            if not whole.exists():  # another process may have made it meanwhile
                if not (folder / "unfinished.json").exists() and any(path != lock for path in folder.iterdir()):
                    raise UserError(f"{folder} holds something else; give another --cache")
                _make(source, folder, made, quiet, held)
    _check_same(_read_json(whole).get("made_of"), made, folder)
    return open_cache(folder)


def _make(source: Source, folder: Path, made: dict[str, Any], quiet: bool, held: int) -> None:
    """Makes the cache in an empty folder, or finishes it where it stopped."""
    unfinished = folder / "unfinished.json"
    if unfinished.exists():
        _check_same(_read_json(unfinished).get("made_of"), made, folder)
    else:
        write_text(unfinished, json.dumps({"made_of": made}, indent=1))
    if not (folder / "vocabulary.npz").exists():
        _count(source, folder, made["min_count"], quiet, held)
    with np.load(folder / "vocabulary.npz") as file:
        vocabulary = [file[field] for field in source.fields]
    layout = Layout(tuple(1 + len(known) for known in vocabulary))
    parts = _encode(source, folder, vocabulary, layout, quiet)
    contents = {"made_of": made, "sizes": layout.sizes, "parts": parts}
    write_text(folder / "cache.json", json.dumps(contents, indent=1) + "\n")
    for name in ("unfinished.json", "place.json"):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "counts", ignore_errors=True)


def fingerprint(path: Path) -> dict[str, Any]:
    """Size and a hash of both ends of a file: what tells it from another, at once however large it is."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            ends = file.read(_EDGE)
            file.seek(max(0, size - _EDGE))
            ends += file.read(_EDGE)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    return {"bytes": size, "ends": hashlib.sha256(ends).hexdigest()[:16]}


def _count(source: Source, folder: Path, min_count: int, quiet: bool, held: int) -> None:
    """The first pass: vocabulary.npz. Of data that come in parts, only the training part is counted."""
    runs = folder / "counts"
    runs.mkdir(exist_ok=True)
    counted = range(1 if source.parts else len(source.files))
    for leftover in runs.glob(".*"):  # of a process that was killed as it wrote
        leftover.unlink()
    done = sorted(runs.glob("*.run"))
    file, offset, row = _place_in_name(done[-1]) if done else (0, 0, 1)
    counts, rows = Counts(len(source.fields)), 0

    def write() -> None:
        done.append(runs / f"{len(done):06d}-{file}-{offset}-{row}.run")
        write_run(done[-1], counts.take())

    for number, block in _blocks(source, counted, (file, offset, row), "values", quiet):
        file, offset, row = number, block.offset, block.row
        counts.add(block.keys)
        rows += len(block.labels)
        if counts.held > held or rows >= 8 * NOTED:
            write()
            rows = 0
    if rows:
        write()
    mapped = [Run(path) for path in done]
    if not mapped:
        raise UserError(f"{source.files[0]}: the file has no rows")
    known = {name: frequent(mapped, field, min_count, held) for field, name in enumerate(source.fields)}
    with written_whole(folder / "vocabulary.npz") as unfinished:
        np.savez(unfinished, **known)


def _place_in_name(run: Path) -> tuple[int, int, int]:
    _, file, offset, row = run.stem.split("-")
    return int(file), int(offset), int(row)


def _encode(source: Source, folder: Path, vocabulary: list, layout: Layout, quiet: bool) -> dict[str, int]:
    """The second pass: rows.bin. Gives the rows of each part."""
    names = source.parts or ("all",) * len(source.files)
    place = folder / "place.json"
    state = {"file": 0, "offset": 0, "row": 1, "parts": dict.fromkeys(names, 0)}
    if place.exists():
        state = _read_json(place)
    noted = sum(state["parts"].values())
    with open(folder / "rows.bin", "r+b" if place.exists() else "wb") as out:
        out.seek(noted * layout.bytes)
        out.truncate()
        start = (state["file"], state["offset"], state["row"])
        for file, block in _blocks(source, range(len(source.files)), start, "rows", quiet):
            out.write(layout.encode(indices(block.keys, vocabulary), block.labels).data)
            state |= {"file": file, "offset": block.offset, "row": block.row}
            state["parts"][names[file]] += len(block.labels)
            if sum(state["parts"].values()) >= noted + NOTED:
                noted = sum(state["parts"].values())
                out.flush()
                os.fsync(out.fileno())
                write_text(place, json.dumps(state))
        out.flush()
        os.fsync(out.fileno())
    for name, rows in state["parts"].items():
        if not rows:
            raise UserError(f"{source.files[names.index(name)]}: the file has no rows")
    return state["parts"]


def _blocks(
    source: Source, files: range, start: tuple[int, int, int], what: str, quiet: bool
) -> Iterator[tuple[int, Rows]]:
    """The blocks of several files from a place (file, byte, row) on, with a progress bar in bytes."""
    total = sum(source.files[file].stat().st_size for file in files)
    before = sum(source.files[file].stat().st_size for file in range(start[0])) + start[1]
    with tqdm(total=total, initial=before, unit="B", unit_scale=True, desc=what, disable=quiet or None) as bar:
        for file in files[start[0] :]:
            offset, row = start[1:] if file == start[0] else (0, 1)
            for block in source.rows(file, offset, row):
                yield file, block
                bar.update(block.offset - offset)
                offset = block.offset


def _check_same(found: Any, made: dict[str, Any], folder: Path) -> None:
    """Raises UserError that names the first thing in which a cache differs from what is asked for."""
    for key, value in made.items():
        other = found.get(key) if isinstance(found, dict) else None
        if other != value:
            there, here = (_told(key, x) for x in (other, value))
            told = f"{there} there, {here} here" if there != here else f"{there}, with other contents"
            raise UserError(
                f"{folder} is a cache of other settings ({key}: {told}); remove it, or give another --cache"
            )


def _told(key: str, value: Any) -> str:
    """A thing that a cache is made of, in short."""
    if key == "files" and isinstance(value, list):
        return ", ".join(f"{file['name']} of {file['bytes']:,} bytes" for file in value)
    return str(value) if len(str(value)) < 60 else f"{str(value)[:57]}..."


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); remove the folder".replace("\n", " ")) from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: expected a JSON object; remove the folder")
    return found
