"""Cells of a table: what is done is kept, and goes on."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import pytest

from nerf_dfa.errors import UserError
from nerf_dfa.training.cells import line, load_cell, mean_std, run_cells, run_name


@dataclass(frozen=True)
class Setting:
    scale: float = 2.0


def scaled(settings: Setting, seed: int, folder: Path | None) -> dict:
    return {"value": settings.scale * seed, "folder": str(folder), "seconds": 0.0}


def value(run: dict) -> float:
    return run["value"]


@pytest.mark.parametrize("jobs", [1, 2])
def test_runs_are_kept_and_not_repeated(tmp_path, jobs):
    cells = [load_cell(name, Setting(scale), tmp_path) for name, scale in (("a", 2.0), ("b", 3.0))]
    run_cells(cells, 2, scaled, tmp_path, value, jobs, save=True)
    assert [cell.values("value", 2) for cell in cells] == [[0, 2], [0, 3]]
    assert cells[1].runs[1]["folder"] == str(tmp_path / "b" / "seed_1")
    again = load_cell("b", Setting(3.0), tmp_path)
    assert again.runs == cells[1].runs
    run_cells([again], 3, lambda *_: {"value": 7.0, "seconds": 0.0}, tmp_path, value)
    assert again.values("value", 3) == [0, 3, 7]
    assert sorted(json.loads((tmp_path / "b.json").read_text())["runs"]) == ["0", "1", "2"]


def test_a_file_of_other_settings_or_damaged_is_refused(tmp_path):
    run_cells([load_cell("a", Setting(), tmp_path)], 1, scaled, tmp_path, value)
    with pytest.raises(UserError, match=r"a\.json is of other settings"):
        load_cell("a", Setting(4.0), tmp_path)
    (tmp_path / "a").mkdir()
    with pytest.raises(UserError, match=r"other settings; move it and /.*/a/ away, or give another --out"):
        load_cell("a", Setting(4.0), tmp_path)
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(UserError, match=r"a\.json: cannot be continued"):
        load_cell("a", Setting(), tmp_path)


def test_numbers_that_are_not_finite_are_null_on_the_disk(tmp_path):
    run = {"value": math.inf, "layers": [{"mean": math.nan, "samples": 0}], "seconds": 0.0}
    cell = load_cell("a", Setting(), tmp_path)
    run_cells([cell], 1, lambda *_: run, tmp_path, value)
    found = json.loads((tmp_path / "a.json").read_text(), parse_constant=pytest.fail)["runs"]["0"]
    assert found == {"value": None, "layers": [{"mean": None, "samples": 0}], "seconds": 0.0}
    for same in (cell, load_cell("a", Setting(), tmp_path)):
        assert mean_std(same.values("value", 1), 1) == "nan"
        assert math.isnan(same.runs[0]["layers"][0]["mean"])


def test_names_fit_into_the_names_of_files(tmp_path):
    assert run_name("reviews-dfa", {"lr": "1e-3", "steps": "5"}) == "reviews-dfa-lr=1e-3-steps=5"
    given = {f"key_{number}": "é" * 10 for number in range(20)}
    name = run_name("reviews-dfa", given)
    assert name.startswith("reviews-dfa-key_0=é")
    assert name != run_name("reviews-dfa", {**given, "key_19": "e" * 10})
    run_cells([load_cell(name, Setting(), tmp_path)], 1, scaled, tmp_path, value, save=True)
    assert (tmp_path / f"{name}.json").exists()


def test_mean_and_deviation():
    assert mean_std([1.0, 2.0, 6.0], 1) == "3.0 ± 2.6"
    assert mean_std([0.5], 2) == "0.50"
    assert mean_std([0.5, math.inf], 1) == "inf ± nan"
    assert mean_std([0.5, math.nan], 1) == "nan ± nan"
    assert line(["a", "b"]) == "| a | b |"
