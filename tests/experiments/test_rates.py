"""Which learning rate a study's cell is trained at, by trials on training views that are held out."""

import json

import numpy as np
import pytest
from experiments.trials import collapsing_from, results

from nerf_dfa.experiments import views


def test_the_rate_is_chosen_on_training_views_held_out(study, run, tmp_path, monkeypatch):
    calls = []

    def fake(flags, seed, factor, search_steps=None):
        calls.append((seed, factor, search_steps))
        score = {0.5: 1.0, 1.0: 3.0, 2.0: 2.0}[factor]
        found = {"restarts": 0, "views": 1, "seconds": 1.0}
        if search_steps is not None:
            return {**found, "val_psnr": score}, None
        return {**found, "psnr": 20.0 + seed}, np.zeros((4, 4, 3), np.uint8)

    monkeypatch.setattr(views, "run_cell", fake)
    path = study(**{"seeds = 2": "seeds = 2\nrates = 0.5 1 2\nsearch_steps = 3"})
    status, table, _ = run(path, "--columns", "grid")
    assert status == 0
    trials = [(1000, rate, 3) for rate in (0.5, 1.0, 2.0) for _ in range(3)]  # of three rows
    assert calls[:10] == [*trials, (0, 1.0, None)]
    assert {call[1] for call in calls if call[2] is None} == {1.0}
    assert "20.50 ± 0.71 (1)" in table


def test_the_mean_of_several_trials_chooses_the_rate(study, run, tmp_path, monkeypatch):
    """A rate that is the best by one seed and collapsed by another is not chosen; a lacking trial is run."""
    calls = []

    def fake(flags, seed, factor, search_steps=None):
        calls.append((seed, factor, search_steps))
        found = {"restarts": 0, "views": 1, "seconds": 1.0}
        if search_steps is not None:
            score = {0.5: (1.0, 1.0), 1.0: (3.0, 3.0), 2.0: (9.0, None)}[factor][seed - views.SEARCH_SEED]
            return {**found, "val_psnr": score}, None
        return {**found, "psnr": 20.0}, np.zeros((4, 4, 3), np.uint8)

    monkeypatch.setattr(views, "run_cell", fake)
    path = study(**{"seeds = 2": "seeds = 1\nrates = 0.5 1 2\nsearch_steps = 3\nsearch_seeds = 2"})
    status, table, _ = run(path, "--columns", "grid")
    assert status == 0
    assert {call[1] for call in calls if call[2] is None} == {1.0}
    assert "by trials of 3 steps with 2 seeds each" in table
    runs = json.loads((tmp_path / "out" / "trial.json").read_text())["runs"]
    assert runs["dfa | grid | rate 1, trial 2"]["seed"] == views.SEARCH_SEED + 1
    del runs["dfa | grid | rate 1, trial 2"]
    (tmp_path / "out" / "trial.json").write_text(json.dumps({"study": "trial", "runs": runs}))
    calls.clear()
    assert run(path, "--columns", "grid")[0] == 0
    assert calls == [(views.SEARCH_SEED + 1, 1.0, 3)]


def test_a_run_at_a_rate_that_is_no_longer_the_best_is_named(study, run, tmp_path, monkeypatch):
    def fake(flags, seed, factor, search_steps=None):
        found = {"restarts": 0, "views": 1, "seconds": 1.0}
        score = -abs(factor - 1) if seed == views.SEARCH_SEED else -abs(factor - 2) * 9
        return {**found, "psnr" if search_steps is None else "val_psnr": score}, np.zeros((4, 4, 3), np.uint8)

    monkeypatch.setattr(views, "run_cell", fake)
    head = "seeds = 1\nrates = 0.5 1 2 4\nsearch_steps = 3"
    assert run(study(**{"seeds = 2": head}), "--columns", "grid")[0] == 0
    status, _, error = run(study(**{"seeds = 2": f"{head}\nsearch_seeds = 2"}), "--columns", "grid")
    assert status == 2
    assert "'bp | grid | seed 0' was trained at 1 times its learning rate, and 2 is the best" in error


def test_a_row_may_have_longer_trials(study, run, monkeypatch):
    calls = []

    def fake(flags, seed, factor, search_steps=None):
        calls.append((next(name for name in ("bp", "dfa", "dfa-best") if name in flags), search_steps))
        found = {"restarts": 0, "views": 1, "seconds": 1.0}
        return {**found, "psnr" if search_steps is None else "val_psnr": factor}, np.zeros((4, 4, 3), np.uint8)

    monkeypatch.setattr(views, "run_cell", fake)
    row = "[row dfa]\n"
    assert row in study().read_text()
    path = study(**{"seeds = 2": "seeds = 1\nrates = 1 2\nsearch_steps = 3", row: row + "search_steps = 5\n"})
    status, table, _ = run(path, "--columns", "grid")
    assert status == 0
    assert {("bp", 3), ("dfa", 5)} < set(calls)
    assert not {("bp", 5), ("dfa", 3)} & set(calls)
    assert "by trials of 3 steps" in table
    assert "its rates by trials of 5 steps" in table


def test_a_row_may_have_one_rate_and_no_trials(study, run, monkeypatch):
    calls = []

    def fake(flags, seed, factor, search_steps=None):
        calls.append((next(name for name in ("bp", "dfa", "dfa-best") if name in flags), factor, search_steps))
        found = {"restarts": 0, "views": 1, "seconds": 1.0}
        return {**found, "psnr" if search_steps is None else "val_psnr": factor}, np.zeros((4, 4, 3), np.uint8)

    monkeypatch.setattr(views, "run_cell", fake)
    row, head = "[row dfa]\n", {"seeds = 2": "seeds = 1\nrates = 1 2\nsearch_steps = 3"}
    status, table, _ = run(study(**head, **{row: row + "rate = 3\n"}), "--columns", "grid")
    assert status == 0
    assert [call for call in calls if call[0] == "dfa"] == [("dfa", 3.0, None)]
    assert "its learning rate 3 times that of the flags" in table
    assert "(3)<br>" in table
    status, _, said = run(study(**head, **{row: row + "rate = 4\n"}), "--columns", "grid")
    assert status == 2
    assert "another factor of the learning rate (3)" in said


def test_trials_are_not_longer_than_the_runs(study, run, monkeypatch):
    calls = []

    def fake(flags, seed, factor, search_steps=None):
        calls.append(search_steps)
        found = {"restarts": 0, "views": 1, "seconds": 1.0}
        return {**found, "psnr" if search_steps is None else "val_psnr": factor}, np.zeros((4, 4, 3), np.uint8)

    monkeypatch.setattr(views, "run_cell", fake)
    path = study(**{"seeds = 2": "seeds = 1\nrates = 1 2\nsearch_steps = 5"})
    assert run(path, "--columns", "grid", "--steps", "2")[0] == 0
    assert set(calls) == {2, None}


@pytest.mark.parametrize(
    ("best", "tried", "shown"),
    [(1.0, [1, 2, 0.5], "(1)"), (8.0, [1, 2, 4, 8, 16], "(8)"), (32.0, [1, 2, 4, 8, 16], "(16*)")],
)
def test_rates_beyond_those_named_are_tried_while_the_best_is_at_the_edge(study, run, monkeypatch, best, tried, shown):
    calls = []

    def fake(flags, seed, factor, search_steps=None):
        found = {"restarts": 0, "views": 1, "seconds": 1.0}
        if search_steps is not None:
            calls.append(factor)
            return {**found, "val_psnr": -abs(np.log(factor / best))}, None
        return {**found, "psnr": 20.0}, np.zeros((4, 4, 3), np.uint8)

    monkeypatch.setattr(views, "run_cell", fake)
    path = study(**{"seeds = 2": "seeds = 1\nrates = 1 2\nsearch_steps = 3", "only = grid": "only = mlp"})
    status, table, _ = run(path, "--columns", "grid")
    assert status == 0
    assert sorted(calls) == sorted(2 * tried)  # of bp and dfa
    assert f"20.00 {shown}" in table


def test_a_rate_at_which_nothing_begins_is_not_chosen(study, run, tmp_path, monkeypatch):
    collapsing_from(1e-3, monkeypatch)  # twice the default
    path = study(**{"seeds = 2": "seeds = 1\nrates = 1 2\nsearch_steps = 3"})
    for _ in range(2):  # and again from the file
        assert run(path, "--columns", "grid")[0] == 0
    found = results(tmp_path)
    assert found["bp | grid | rate 2"]["val_psnr"] is None
    assert found["bp | grid | seed 0"]["rate"] <= 1
