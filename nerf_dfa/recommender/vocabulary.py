"""Which values of a field have an index of their own, counted over any number of rows in bounded memory.

Index 0 of every field is for all values that are rarer than `min_count`, and for those never counted; the others
follow in the order of their keys. Counts that outgrow the memory go to disk as sorted runs, which are merged at the end
a range of keys at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt64

from nerf_dfa.files import written_whole

HELD = 1 << 23  # distinct values in memory at which counts are written down

Counted = tuple[UInt64[np.ndarray, " _"], Int[np.ndarray, " _"]]  # sorted keys, and how often each was seen


class Counts:
    """How often each value of each field was seen, in memory."""

    def __init__(self, fields: int) -> None:
        self._merged: list[Counted] = [(np.empty(0, np.uint64), np.empty(0, np.int64)) for _ in range(fields)]
        self._waiting: list[list[Counted]] = [[] for _ in range(fields)]

    @property
    def held(self) -> int:
        """Entries in memory."""
        waiting = sum(len(keys) for parts in self._waiting for keys, _ in parts)
        return waiting + sum(len(keys) for keys, _ in self._merged)

    def add(self, keys: UInt64[np.ndarray, "rows fields"]) -> None:
        for field, column in enumerate(keys.T):
            waiting, size = self._waiting[field], len(self._merged[field][0])
            waiting.append(np.unique(column, return_counts=True))
            # Merged when they are as many as what they join: each is moved a logarithmic number of times.
            if sum(len(part) for part, _ in waiting) > max(size, 1 << 14):
                self._merge(field)

    def take(self) -> list[Counted]:
        """All counts; none remain."""
        for field in range(len(self._merged)):
            self._merge(field)
        taken = self._merged
        self.__init__(len(taken))
        return taken

    def _merge(self, field: int) -> None:
        self._merged[field] = merge([self._merged[field], *self._waiting[field]])
        self._waiting[field] = []


def merge(parts: Sequence[Counted]) -> Counted:
    """Counts of equal keys added up."""
    keys = np.concatenate([part for part, _ in parts])
    counts = np.concatenate([part for _, part in parts])
    order = np.argsort(keys, kind="stable")
    keys, counts = keys[order], counts[order]
    first = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])[: len(keys)])
    return keys[first], np.add.reduceat(counts, first) if len(first) else counts


def write_run(path: Path, counts: Sequence[Counted]) -> None:
    """One file: the number of entries of every field, then all keys, then all counts."""
    with written_whole(path) as unfinished, open(unfinished, "wb") as file:
        np.array([len(counts), *(len(keys) for keys, _ in counts)], np.uint64).tofile(file)
        for part in (0, 1):
            for field in counts:
                field[part].astype(np.uint64).tofile(file)


class Run:
    """A run on the disk, mapped."""

    def __init__(self, path: Path) -> None:
        numbers = np.memmap(path, np.uint64, "r")
        fields = int(numbers[0])
        ends = 1 + fields + np.cumsum([0, *numbers[1 : 1 + fields].astype(np.int64)])
        self._numbers, self._ends, self._total = numbers, ends, int(ends[-1] - ends[0])

    def keys(self, field: int) -> UInt64[np.ndarray, " n"]:
        return self._numbers[self._ends[field] : self._ends[field + 1]]

    def between(self, field: int, low: int, high: int | None) -> Counted:
        """The entries with low <= key < high."""
        keys = self.keys(field)
        start = np.searchsorted(keys, np.uint64(low))
        end = len(keys) if high is None else np.searchsorted(keys, np.uint64(high))
        place = self._ends[field] + self._total
        return np.array(keys[start:end]), self._numbers[place + start : place + end].astype(np.int64)


def frequent(runs: Sequence[Run], field: int, min_count: int, held: int = HELD) -> UInt64[np.ndarray, " n"]:
    """The keys seen at least `min_count` times in all runs together, sorted; about `held` entries in memory."""
    bounds = [0, *_range_bounds([run.keys(field) for run in runs], held), None]
    kept = []
    for low, high in pairwise(bounds):
        keys, counts = merge([run.between(field, low, high) for run in runs])
        kept.append(keys[counts >= min_count])
    return np.concatenate(kept)


def _range_bounds(sorted_keys: Sequence[UInt64[np.ndarray, " _"]], held: int) -> Iterator[int]:
    """Keys at which to cut, so that about `held` entries of all runs together lie between two of them."""
    total = sum(len(keys) for keys in sorted_keys)
    pieces = -(-total // held)
    if pieces <= 1:
        return
    sample = np.sort(np.concatenate([keys[:: max(1, held // 1024)] for keys in sorted_keys]))
    last = 0
    for piece in range(1, pieces):
        bound = int(sample[piece * len(sample) // pieces])
        if bound > last:
            yield bound
            last = bound


def indices(
    keys: UInt64[np.ndarray, "rows fields"], vocabulary: Sequence[UInt64[np.ndarray, " _"]]
) -> Int[np.ndarray, "rows fields"]:
    """The index of every value in its field; 0 for what is not in the vocabulary."""
    found = np.zeros(keys.shape, np.int64)
    for field, known in enumerate(vocabulary):
        if len(known):
            place = np.minimum(np.searchsorted(known, keys[:, field]), len(known) - 1)
            found[:, field] = np.where(known[place] == keys[:, field], place + 1, 0)
    return found
