"""Which row comes when."""

import numpy as np
import pytest

from nerf_dfa.errors import UserError
from nerf_dfa.recommender.cache import make_cache
from nerf_dfa.recommender.criteo import Criteo
from nerf_dfa.recommender.data import Data, shuffled
from nerf_dfa.recommender.synthetic import write_criteo


@pytest.mark.parametrize("size", [1, 2, 3, 17, 1000, 4096, 4097])
def test_shuffled_is_a_permutation(size):
    found = shuffled(np.arange(size), size, 3)
    assert sorted(found.tolist()) == list(range(size))
    if size > 100:
        assert not np.array_equal(found, shuffled(np.arange(size), size, 4))
        np.testing.assert_array_equal(found[5:9], shuffled(np.arange(5, 9), size, 3))


def test_shuffled_looks_random():
    """Correlation of neighbours, and of place and value, near 0; large sizes stay in range."""
    found = shuffled(np.arange(100_000), 100_000, 0)
    assert abs(np.corrcoef(found[1:], found[:-1])[0, 1]) < 0.01
    assert abs(np.corrcoef(found, np.arange(100_000))[0, 1]) < 0.01
    large = shuffled(np.arange(1000), 45_840_617, 0)
    assert 0 <= large.min() <= large.max() < 45_840_617
    assert len(set(large.tolist())) == 1000


def test_parts_share_out_the_rows(small):
    sizes = [small.size(part) for part in ("train", "val", "test")]
    assert sizes == [2400, 300, 300]
    keys = []
    for part, size in zip(("train", "val", "test"), sizes, strict=True):
        fields = small.read(part, np.arange(size)).fields
        keys += [tuple(row) for row in fields.tolist()]
    everything, _ = small.cache.layout.decode(small.cache.records().view(np.uint8).reshape(3000, -1))
    assert sorted(keys) == sorted(map(tuple, everything.tolist()))


def test_an_epoch_has_every_row_once(small):
    labels = []
    for epoch in range(2):
        batches = [small.batch(epoch, number, 500, seed=1) for number in range(small.epoch_steps(500))]
        assert [len(b.labels) for b in batches] == [500] * 4 + [400]
        labels.append([tuple(row) for b in batches for row in b.fields.tolist()])
    assert sorted(labels[0]) == sorted(labels[1])
    assert labels[0] != labels[1]


def test_given_parts_keep_their_rows(tmp_path):
    for name, rows in (("train", 50), ("dev", 20), ("test", 30)):
        write_criteo(tmp_path / f"{name}.tsv", rows, rows)
    data = Data(make_cache(Criteo(tmp_path), tmp_path / "cache", 1, quiet=True))
    for part, name, rows in (("train", "train", 50), ("val", "dev", 20), ("test", "test", 30)):
        labels = [float(line[0]) for line in (tmp_path / f"{name}.tsv").read_text().splitlines()]
        assert data.read(part, np.arange(rows)).labels.tolist() == labels
    assert data.read("train", np.arange(50)).fields.max() < sum(data.cache.layout.sizes)


def test_too_few_rows(tmp_path):
    write_criteo(tmp_path / "train.txt", 9)
    with pytest.raises(UserError, match="9 rows are too few, its val part has 0 and needs 1"):
        Data(make_cache(Criteo(tmp_path), tmp_path / "cache", 1, quiet=True))
    for part, rows in (("train", 1), ("dev", 5), ("test", 5)):
        write_criteo(tmp_path / f"{part}.tsv", rows)
    (tmp_path / "train.txt").unlink()
    with pytest.raises(UserError, match="11 rows are too few, its train part has 1 and needs 2"):
        Data(make_cache(Criteo(tmp_path), tmp_path / "parts", 1, quiet=True))
