"""Batches from a cache: which row comes when, computed from the step alone, whatever the number of rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from nerf_dfa.errors import UserError
from nerf_dfa.recommender.cache import Cache

PARTS = ("train", "val", "test")
SHARES = (0.8, 0.1, 0.1)  # of data that do not come in parts
SPLIT_SEED = 2020
_ROUNDS = 4


def shuffled(numbers: Int[np.ndarray, " n"], size: int, seed: int) -> Int[np.ndarray, " n"]:
    """Places of these numbers in a pseudo-random permutation of 0 ... size - 1, without making the permutation.

    A Feistel network on the next even number of bits, applied until the result is below `size`.
    """
    half = max(1, (int(size - 1).bit_length() + 1) // 2)
    mask = np.uint64((1 << half) - 1)
    keys = np.random.default_rng(seed).integers(1 << 63, size=_ROUNDS, dtype=np.uint64)
    result = np.asarray(numbers, np.uint64).copy()
    outside = np.arange(len(result))
    while len(outside):
        left, right = result[outside] >> np.uint64(half), result[outside] & mask
        for key in keys:
            left, right = right, left ^ (_mixed(right ^ key) & mask)
        result[outside] = left << np.uint64(half) | right
        outside = outside[result[outside] >= size]
    return result.astype(np.int64)


def _mixed(x: np.ndarray) -> np.ndarray:
    """Steele et al. 2014 (splitmix64): every bit depends on all."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@dataclass(frozen=True)
class Batch:
    """fields: indices of one table of all fields' values; labels: 1 for a click."""

    fields: Int[Tensor, "rows fields"]
    labels: Float[Tensor, " rows"]


class Data:
    """The rows of a cache, in the parts that it came in or in 80, 10 and 10 % at random (always the same)."""

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self._records = cache.records()
        rows, given = cache.rows, "all" not in cache.parts
        ends = np.cumsum([cache.parts[p] for p in PARTS] if given else [int(rows * share) for share in SHARES])
        ends[-1] = rows
        self._shared = not given
        self._ranges = dict(zip(PARTS, zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True), strict=True))
        for part, (start, end) in self._ranges.items():
            least = 2 if part == "train" else 1  # of a single row batch norm can make nothing
            if end - start < least:
                raise UserError(
                    f"{cache.folder}: {rows} rows are too few, its {part} part has {end - start} and needs {least}"
                )

    def size(self, part: str) -> int:
        start, end = self._ranges[part]
        return end - start

    def read(self, part: str, numbers: Int[np.ndarray, " rows"]) -> Batch:
        """The rows of these numbers, from 0 on, of a part."""
        numbers = numbers + self._ranges[part][0]
        if self._shared:
            numbers = shuffled(numbers, self.cache.rows, SPLIT_SEED)
        records = self._records[numbers].view(np.uint8).reshape(len(numbers), -1)
        fields, labels = self.cache.layout.decode(records)
        return Batch(torch.from_numpy(fields), torch.from_numpy(labels))

    def epoch_steps(self, size: int) -> int:
        """Batches of an epoch; the last one may be smaller."""
        return -(-self.size("train") // size)

    def batch(self, epoch: int, number: int, size: int, seed: int) -> Batch:
        """The epoch's batch of that number, both from 0 on: every epoch has all rows once, in an order of its own."""
        rows = self.size("train")
        numbers = np.arange(number * size, min((number + 1) * size, rows))
        return self.read("train", shuffled(numbers, rows, seed * 1_000_003 + epoch))
