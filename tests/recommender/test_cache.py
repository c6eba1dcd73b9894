"""Caches: what they hold against plain Python, interruption at every place, and each way one can be wrong."""

import json
from collections import Counter

import numpy as np
import pytest

from nerf_dfa.errors import UserError
from nerf_dfa.recommender import cache as module
from nerf_dfa.recommender import text
from nerf_dfa.recommender.cache import Layout, make_cache, open_cache
from nerf_dfa.recommender.criteo import Criteo
from nerf_dfa.recommender.synthetic import Law, write_criteo


def decoded(cache):
    records = cache.records().view(np.uint8).reshape(cache.rows, -1)
    fields, labels = cache.layout.decode(records)
    return fields - np.cumsum([0, *cache.layout.sizes[:-1]]), labels


def test_layout_packs_and_unpacks(rng):
    sizes = (3, 70_000, 256, 257, 65_536, 65_537, 1)
    layout = Layout(sizes)
    found = np.stack([rng.integers(0, size, 100) for size in sizes], axis=1)
    found[0] = [size - 1 for size in sizes]
    labels = rng.integers(0, 2, 100).astype(np.uint8)
    records = layout.encode(found, labels)
    assert records.shape == (100, 4 + 4 + 2 + 2 + 1 + 1 + 1 + 1)
    fields, back = layout.decode(records)
    np.testing.assert_array_equal(fields, found + np.cumsum([0, *sizes[:-1]]))
    np.testing.assert_array_equal(back, labels)


@pytest.mark.parametrize("min_count", [1, 7])
def test_cache_holds_the_rows(clicks, tmp_path, min_count):
    cache = make_cache(Criteo(clicks), tmp_path / "cache", min_count, quiet=True)
    rows = [line.split("\t") for line in clicks.read_text().splitlines()]
    found, labels = decoded(cache)
    assert labels.tolist() == [float(row[0]) for row in rows]
    for field in range(13, 39):  # categories, whose text is their value
        column = [row[1 + field] for row in rows]
        counts = Counter(column)
        # In the order of the text, the empty one first: big-endian keys of equal length.
        known = sorted(value for value, count in counts.items() if count >= min_count)
        table = {value: number for number, value in enumerate(known, 1)}
        assert found[:, field].tolist() == [table.get(value, 0) for value in column]
        assert cache.layout.sizes[field] == len(known) + 1
    assert sorted(p.name for p in (tmp_path / "cache").iterdir()) == ["cache.json", "rows.bin", "vocabulary.npz"]


def test_of_parts_only_the_training_part_is_counted(tmp_path):
    for name, seed in (("train", 0), ("dev", 1), ("test", 2)):
        write_criteo(tmp_path / f"{name}.tsv", 100 + seed, seed, Law(values=20))
    cache = make_cache(Criteo(tmp_path), tmp_path / "cache", 1, quiet=True)
    assert cache.parts == {"train": 100, "val": 101, "test": 102}
    alone = make_cache(Criteo(tmp_path / "train.tsv"), tmp_path / "alone", 1, quiet=True)
    assert alone.layout == cache.layout
    np.testing.assert_array_equal(decoded(alone)[0], decoded(cache)[0][:100])
    assert (decoded(cache)[0][100:] == 0).any()


class Stop(Exception):
    pass


class Interrupted(Criteo):
    """Stops after so many blocks."""

    def __init__(self, path, blocks):
        super().__init__(path)
        self.left = blocks

    def rows(self, *place):
        for rows in super().rows(*place):
            if self.left == 0:
                raise Stop
            self.left -= 1
            yield rows


def test_interrupted_at_every_place_gives_the_same_bytes(clicks, tmp_path, monkeypatch):
    whole = make_cache(Criteo(clicks), tmp_path / "whole", 5, quiet=True)
    monkeypatch.setattr(text, "BLOCK", 100_000)
    monkeypatch.setattr(module, "NOTED", 700)
    folder, stops = tmp_path / "cache", 0
    for blocks in (1, 2, 3, 4, 20, 3, 4, 20):
        try:
            cache = make_cache(Interrupted(clicks, blocks), folder, 5, quiet=True, held=5000)
        except Stop:
            stops += 1
            with pytest.raises(UserError, match="cache is half written; the command that began it goes on with it"):
                open_cache(folder)
    assert stops >= 4
    assert cache.layout == whole.layout
    for name in ("rows.bin", "cache.json"):
        assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (folder / "counts").exists()
    assert make_cache(Interrupted(clicks, 0), folder, 5).parts == {"all": 3000}  # nothing is read again


def test_a_run_of_counts_that_was_being_written_is_left_out(clicks, tmp_path, monkeypatch):
    whole = make_cache(Criteo(clicks), tmp_path / "whole", 5, quiet=True)
    monkeypatch.setattr(text, "BLOCK", 100_000)
    folder = tmp_path / "cache"
    with pytest.raises(Stop):
        make_cache(Interrupted(clicks, 3), folder, 5, quiet=True, held=5000)
    runs = sorted((folder / "counts").iterdir())
    for run in (runs[-1], runs[-1].with_name("000009-0-99-99.run")):  # killed before and after its last byte
        run.with_name(f".{run.stem}.123.run").write_bytes(runs[-1].read_bytes()[: 1 if run == runs[-1] else None])
    assert make_cache(Criteo(clicks), folder, 5, quiet=True, held=5000).layout == whole.layout


def test_two_processes_do_not_make_the_same_cache(clicks, tmp_path):
    folder = tmp_path / "cache"

    class Meanwhile(Criteo):
        def rows(self, *place):
            with pytest.raises(UserError, match="cache: another process is writing here"):
                make_cache(Criteo(clicks), folder, 5, quiet=True)
            return super().rows(*place)

    cache = make_cache(Meanwhile(clicks), folder, 5, quiet=True)
    whole = make_cache(Criteo(clicks), tmp_path / "whole", 5, quiet=True)
    np.testing.assert_array_equal(cache.records(), whole.records())


@pytest.mark.parametrize("done", [True, False])
def test_cache_of_other_settings_is_refused(clicks, tmp_path, done):
    folder = tmp_path / "cache"
    if done:
        make_cache(Criteo(clicks), folder, 5, quiet=True)
    else:
        with pytest.raises(Stop):
            make_cache(Interrupted(clicks, 0), folder, 5, quiet=True)
    with pytest.raises(UserError, match=r"cache is a cache of other settings \(min_count: 5 there, 6 here\)"):
        make_cache(Criteo(clicks), folder, 6, quiet=True)
    other = write_criteo(tmp_path / "train.txt", 3000, seed=1)
    with pytest.raises(UserError, match=r"\(files: train.txt of [\d,]+ bytes there, train.txt of [\d,]+ bytes here\)"):
        make_cache(Criteo(other), folder, 5, quiet=True)


def test_damaged_caches_are_refused(clicks, tmp_path):
    folder = tmp_path / "cache"
    with pytest.raises(UserError, match="no cache there; --data names the files"):
        open_cache(folder)
    cache = make_cache(Criteo(clicks), folder, 5, quiet=True)
    rows = (folder / "rows.bin").read_bytes()
    (folder / "rows.bin").write_bytes(rows[:-1])
    with pytest.raises(UserError, match=rf"rows\.bin has {len(rows) - 1} bytes; expected 3000 rows of"):
        open_cache(folder)
    (folder / "rows.bin").write_bytes(rows)
    contents = json.loads((folder / "cache.json").read_text())
    contents["made_of"]["version"] = 0
    for wrong in (json.dumps(contents), "{}", "[]", "{"):
        (folder / "cache.json").write_text(wrong)
        with pytest.raises(UserError, match=r"cache\.json"):
            open_cache(folder)
    assert cache.rows == 3000


def test_empty_files_and_full_folders_are_refused(tmp_path):
    (tmp_path / "train.txt").write_text("")
    with pytest.raises(UserError, match=r"train\.txt: the file has no rows"):
        make_cache(Criteo(tmp_path), tmp_path / "cache", 1, quiet=True)
    with pytest.raises(UserError, match="holds something else"):
        make_cache(Criteo(tmp_path), tmp_path, 1, quiet=True)
    for name in ("train.tsv", "dev.tsv"):
        write_criteo(tmp_path / name, 10)
    (tmp_path / "test.tsv").write_text("")
    with pytest.raises(UserError, match=r"test\.tsv: the file has no rows"):
        make_cache(Criteo(tmp_path), tmp_path / "other", 1, quiet=True)


def test_wrong_row_is_named_from_the_start_of_its_file(clicks, tmp_path, monkeypatch):
    monkeypatch.setattr(text, "BLOCK", 10_000)
    lines = clicks.read_text().splitlines(keepends=True)
    lines[2500] = "0\t1\n"
    path = tmp_path / "train.txt"
    path.write_text("".join(lines))
    for _ in range(2):  # the second time it goes on
        with pytest.raises(UserError, match=r"train\.txt, row 2501: 2 columns; expected 40"):
            make_cache(Criteo(path), tmp_path / "cache", 1, quiet=True, held=3000)
