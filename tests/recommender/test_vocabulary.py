"""Vocabularies against Python's Counter."""

from collections import Counter

import numpy as np
import pytest

from nerf_dfa.recommender.vocabulary import Counts, Run, frequent, indices, write_run


def drawn(rng, rows=4000):
    """Two fields: some values often, others once; with keys of 64 bits."""
    few = rng.zipf(1.3, rows).astype(np.uint64) * np.uint64(2**61 - 1)
    many = rng.integers(0, 2 * rows, rows, dtype=np.uint64)
    return np.stack([few, many], axis=1)


@pytest.mark.parametrize("pieces", [1, 4, 9])
@pytest.mark.parametrize("held", [10, 1000, 1 << 20])
@pytest.mark.parametrize("min_count", [1, 3])
def test_frequent_values_are_those_of_a_counter(rng, tmp_path, pieces, held, min_count):
    keys, runs = drawn(rng), []
    for number, part in enumerate(np.array_split(keys, pieces)):
        counts = Counts(2)
        for block in np.array_split(part, 3):
            counts.add(block)
        write_run(tmp_path / f"{number}.run", counts.take())
        assert counts.held == 0
        runs.append(Run(tmp_path / f"{number}.run"))
    for field in range(2):
        found = frequent(runs, field, min_count, held)
        expected = Counter(keys[:, field].tolist())
        assert found.tolist() == sorted(key for key, count in expected.items() if count >= min_count)


def test_indices_are_those_of_a_dictionary(rng):
    keys = drawn(rng, 500)
    vocabulary = [np.unique(keys[:200, 0]), np.empty(0, np.uint64)]
    table = {key: number for number, key in enumerate(vocabulary[0].tolist(), 1)}
    found = indices(keys, vocabulary)
    assert found[:, 0].tolist() == [table.get(key, 0) for key in keys[:, 0].tolist()]
    assert not found[:, 1].any()


def test_counts_are_merged_now_and_then(rng):
    """A value seen in every block is held a few times at most, not once for each block."""
    counts = Counts(1)
    for _ in range(100):
        counts.add(np.arange(1000, dtype=np.uint64)[:, None])
    assert counts.held < 20_000
    keys, seen = counts.take()[0]
    assert keys.tolist() == list(range(1000))
    assert set(seen.tolist()) == {100}
