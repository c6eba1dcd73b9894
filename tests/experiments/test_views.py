"""Studies of view synthesis, run on a tiny scene."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from nerf_dfa.errors import UserError
from nerf_dfa.experiments import VIEWS, cells, views
from nerf_dfa.experiments.__main__ import main
from nerf_dfa.experiments.cells import held_out
from nerf_dfa.experiments.studies import read_study, reduced
from nerf_dfa.files import alone
from nerf_dfa.nerf import collapse
from nerf_dfa.nerf.collapse import RESTARTS, Collapsed
from nerf_dfa.nerf.presets import PRESETS
from nerf_dfa.scenes import load_scene

STUDY = """
[study]
title = A trial
seeds = 2
figure = {figure}
flags = --N_iters 6 --N_rand 32 --N_samples 8 --precision fp32 # of all

[column mlp]
scene = lego
flags = --datadir {scene} --white_bkgd --netdepth 2 --netwidth 16 --multires 4 --N_importance 4 --netdepth_fine 2 --netwidth_fine 8
[column grid]
flags = --datadir {scene} --white_bkgd --field grid --grid_min 4 --grid_max 8 --grid_levels 2

[row bp]
flags = --learning_rule bp
[row dfa]
flags = --learning_rule dfa --i_alignment 1
[row best]
only = grid
flags = --preset dfa-best
"""  # noqa: E501


@pytest.fixture
def study(tiny_scene, tmp_path):
    """Writes the study; replacements: what stands in place of what."""

    def write(figure="dots", **replacements):
        text = STUDY.format(figure=figure, scene=tiny_scene.name)
        for old, new in replacements.items():
            text = text.replace(old, new)
        path = tmp_path / "trial.txt"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def run(tiny_scene, tmp_path, capsys):
    def run(path, *arguments):
        flags = ["gap", "--config", str(path), "--datadir", str(tiny_scene.parent), "--out", str(tmp_path / "out")]
        status = main([*flags, *arguments])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def results(tmp_path):
    return json.loads((tmp_path / "out" / "trial.json").read_text())["runs"]


def test_every_cell_is_trained_once_and_reported(study, run, tmp_path):
    status, table, progress = run(study())
    assert status == 0, progress
    runs = results(tmp_path)
    cells = {"bp | mlp", "bp | grid", "dfa | mlp", "dfa | grid", "best | grid"}
    assert set(runs) == {f"{cell} | seed {seed}" for cell in cells for seed in (0, 1)}
    for key, one in runs.items():
        assert one["steps"] == 6
        assert one["psnr"] > 0
        assert ("psnr_dual_pixels" in one) == ("mlp" in key)
        assert ("alignment" in one) == key.startswith("dfa")
    mean = np.mean([runs[f"dfa | grid | seed {seed}"]["psnr"] for seed in (0, 1)])
    std = np.std([runs[f"dfa | grid | seed {seed}"]["psnr"] for seed in (0, 1)], ddof=1)
    (row,) = [line for line in table.splitlines() if line.startswith("| dfa |")]
    assert f"{mean:.2f} ± {std:.2f}" in row
    assert "| published, NeRF BP | 32.54 |  |" in table
    assert (tmp_path / "out" / "trial.md").read_text() in table + "\n"
    assert (tmp_path / "out" / "trial.png").exists()

    before = (tmp_path / "out" / "trial.json").read_text()
    status, _, progress = run(study(**{"A trial": "Other words"}))
    assert (status, progress) == (0, "")
    assert (tmp_path / "out" / "trial.json").read_text() == before


def test_the_psnr_is_that_of_the_picture_written(study, run, tmp_path, tiny_scene):
    """With one test view left the mean is its own; against the photograph composited by hand."""
    assert run(study(**{"fp32 # of all": "fp32 --testskip 1000"}), "--seeds", "1", "--columns", "grid")[0] == 0
    scene = load_scene(tiny_scene)
    with Image.open(tmp_path / "out" / "trial" / "bp_grid_0.png") as image:
        picture = np.array(image) / 255
    rgba = scene.images[scene.split["test"][0]].numpy() / 255
    truth = np.round((rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:]) * 255) / 255
    run_ = results(tmp_path)["bp | grid | seed 0"]
    assert run_["views"] == 1
    assert run_["psnr"] == pytest.approx(-10 * np.log10(np.square(picture - truth).mean()), abs=1e-3)


@pytest.mark.parametrize("figure", ["pictures", "alignment"])
def test_figures(study, run, tmp_path, figure):
    assert run(study(figure), "--seeds", "1")[0] == 0
    with Image.open(tmp_path / "out" / "trial.png") as image:
        assert image.width > 200


def test_a_column_alone_leaves_the_others_in_the_table(study, run, tmp_path):
    tables = []
    for column in ("mlp", "grid"):
        assert run(study(), "--seeds", "1", "--columns", column)[0] == 0
        tables.append((tmp_path / "out" / "trial.md").read_text())
    assert "|  | mlp |\n" in tables[0]
    assert "|  | mlp | grid |\n" in tables[1]
    assert run(study(), "--seeds", "1")[1] == tables[1] + "\n"


def test_all_cells_of_a_column_have_one_precision(study, run, tmp_path, monkeypatch):
    """A measurement that says something else each time decides once, and what is there before it."""
    said = iter(["bf16", "fp32", "bf16", "fp32"])
    monkeypatch.setattr(views, "measured_precision", lambda options, device: next(said))
    monkeypatch.setattr(cells, "measured_precision", None)
    auto = study(**{"fp32 # of all": "auto"})
    assert run(auto, "--seeds", "1")[0] == 0
    status, table, _ = run(auto, "--seeds", "2")
    assert status == 0
    for key, one in results(tmp_path).items():
        assert one["precision"] == ("bf16" if "mlp" in key else "fp32")
    assert "mlp in bf16, grid in fp32." in table


def test_other_data_is_not_mixed_in(study, run, tmp_path, tiny_scene):
    folder = tmp_path / "scenes" / tiny_scene.name
    shutil.copytree(tiny_scene, folder)

    def go(*arguments):
        return run(study(), "--columns", "grid", "--datadir", str(folder.parent), *arguments)

    assert go("--seeds", "1")[0] == 0
    data = json.loads((tmp_path / "out" / "trial.json").read_text())["data"]["grid"]
    scene = load_scene(folder)
    assert (data["train"], data["test"]) == (len(scene.split["train"]), len(scene.split["test"]))
    assert (data["height"], data["width"]) == scene.images.shape[1:3]
    assert go()[0] == 0  # the same
    picture = folder / scene.names[0]
    with Image.open(picture) as image:
        image.transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(picture)
    assert go()[0] == 0  # nothing is lacking
    status, _, error = go("--seeds", "3")
    assert status == 2
    assert "column grid has runs on other data than there is now" in error


def test_a_study_that_is_being_written_is_left_alone(study, run, tmp_path):
    (tmp_path / "out").mkdir()
    with alone(tmp_path / "out" / ".trial.lock"):
        status, _, error = run(study())
    assert status == 2
    assert "another process is writing here" in error


def test_more_seeds_go_on_and_other_flags_are_refused(study, run, tmp_path):
    assert run(study(), "--seeds", "1", "--columns", "grid")[0] == 0
    first = results(tmp_path)
    assert run(study(), "--seeds", "2", "--columns", "grid")[0] == 0
    assert {key: results(tmp_path)[key] for key in first} == first
    assert len(results(tmp_path)) == 2 * len(first)
    status, _, error = run(study(), "--steps", "7", "--columns", "grid")
    assert status == 2
    assert "trained by other flags" in error
    assert error.count("\n") == 1


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


def test_runs_in_two_processes_give_the_same(study, run, tmp_path):
    path = study(**{"seeds = 2": "seeds = 1\nrates = 0.5 1\nsearch_steps = 3"})
    tables, runs = [], []
    for jobs in "12":
        status, table, _ = run(path, "--columns", "grid", "--jobs", jobs, "--out", str(tmp_path / jobs))
        assert status == 0
        tables.append([line.split("<br>")[0] for line in table.splitlines() if line.startswith("|")])
        assert ("with up to 2 runs at a time" in table) == (jobs == "2")
        found = json.loads((tmp_path / jobs / "trial.json").read_text())["runs"]
        runs.append({key: run.get("psnr", run.get("val_psnr")) for key, run in found.items()})
    assert tables[0] == tables[1]
    assert runs[0] == runs[1]
    one, other = (sorted(path.name for path in (tmp_path / jobs / "trial").iterdir()) for jobs in "12")
    assert one == other


@pytest.mark.parametrize("written", ["--preset dfa-best", "--preset=dfa-best"])
def test_a_preset_is_kept_as_its_flags(study, run, tmp_path, monkeypatch, written):
    path = study(**{"--preset dfa-best": written})
    assert run(path, "--seeds", "1", "--columns", "grid")[0] == 0
    kept = results(tmp_path)["best | grid | seed 0"]["flags"]
    assert not any(flag.startswith("--preset") for flag in kept)
    assert kept[-len(PRESETS["dfa-best"].split()) :] == PRESETS["dfa-best"].split()
    monkeypatch.setitem(views.PRESETS, "dfa-best", "--learning_rule fdfa")
    status, _, error = run(path, "--seeds", "1", "--columns", "grid")
    assert (status, "trained by other flags" in error) == (2, True)


def test_views_held_out_are_training_views_and_no_test_view_is_looked_at(tiny_scene):
    scene = load_scene(tiny_scene)
    part = held_out(scene)
    assert set(part.split["train"]) | set(part.split["val"]) == set(scene.split["train"])
    assert not set(part.split["train"]) & set(part.split["val"])
    assert part.split["val"]


def test_a_collapsed_run_begins_anew_and_is_counted(study, run, tmp_path, monkeypatch):
    make = cells.make_trainer

    def collapsing(options, scene, device, attempt=0, seconds=0.0):
        trainer = make(options, scene, device, attempt, seconds)
        if attempt < 2:

            def fail(progress):
                raise Collapsed(progress.step)

            trainer.every(3, fail)
        return trainer

    monkeypatch.setattr(cells, "make_trainer", collapsing)
    status, table, _ = run(study(), "--seeds", "1", "--columns", "grid")
    assert status == 0
    assert {one["restarts"] for one in results(tmp_path).values()} == {2}
    assert "3 runs, of which 3 collapsed and began anew (6 times)" in table


def test_a_late_collapse_is_counted(study, run, tmp_path, monkeypatch):
    """After the first steps a run that turns uniform is not begun anew; the table says so."""
    for name in ("CHECK_EVERY", "CHECK_FIRST"):
        monkeypatch.setattr(collapse, name, 1)
    monkeypatch.setattr(collapse, "UNIFORM", float("inf"))  # every picture is
    monkeypatch.setattr(cells, "EARLY", 0)
    status, table, _ = run(study(), "--seeds", "1", "--columns", "grid")
    assert status == 0
    assert {(one["restarts"], one["uniform"]) for one in results(tmp_path).values()} == {(0, True)}
    assert "(0 times); 3 ended with pictures of one colour." in table


def collapsing_from(lrate, monkeypatch):
    """From this learning rate on every run collapses at every initialisation."""
    make = cells.make_trainer

    def collapsing(options, scene, device, attempt=0, seconds=0.0):
        trainer = make(options, scene, device, attempt, seconds)

        def fail(progress):
            raise Collapsed(progress.step)

        if options.lrate >= lrate:
            trainer.every(1, fail)
        return trainer

    monkeypatch.setattr(cells, "make_trainer", collapsing)


def test_a_rate_at_which_nothing_begins_is_not_chosen(study, run, tmp_path, monkeypatch):
    collapsing_from(1e-3, monkeypatch)  # twice the default
    path = study(**{"seeds = 2": "seeds = 1\nrates = 1 2\nsearch_steps = 3"})
    for _ in range(2):  # and again from the file
        assert run(path, "--columns", "grid")[0] == 0
    found = results(tmp_path)
    assert found["bp | grid | rate 2"]["val_psnr"] is None
    assert found["bp | grid | seed 0"]["rate"] <= 1


@pytest.mark.parametrize("figure", ["dots", "pictures", "alignment"])
def test_runs_that_never_begin_are_counted(study, run, tmp_path, monkeypatch, figure):
    collapsing_from(1e-3, monkeypatch)
    path = study(figure=figure, **{"--learning_rule bp": "--learning_rule bp --lrate 1e-3"})
    status, table, _ = run(path, "--columns", "grid")
    assert status == 0
    assert results(tmp_path)["bp | grid | seed 0"]["psnr"] is None
    assert "| bp | collapsed |" in table
    times = 2 * RESTARTS
    assert f"6 runs, of which 2 collapsed and began anew ({times} times); 2 collapsed at every initialisation." in table


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[row dfa]", "[line dfa]", ["[line dfa]", "[row NAME]"]),
        ("seeds = 2", "seed = 2", ["unknown key 'seed'", "seeds"]),
        ("seeds = 2", "seeds = two", ["seeds = two", "whole number"]),
        ("figure = dots", "figure = bars", ["figure = bars", "pictures"]),
        ("only = grid", "only = grid; gird", ["only = gird", "no such column"]),
        ("--learning_rule bp", "--learning_rule pb", ["row bp", "column mlp", "learning_rule"]),
        ("--learning_rule bp", "--learning_rule bp --probe_every 3", ["probe_every has no effect"]),
        ("[row bp]", "[row bp", ["trial.txt"]),
        ("--datadir tiny", "--datadir nothing", ["nothing"]),
    ],
)
def test_mistakes_are_one_line(study, run, old, new, words, tiny_scene):
    if "--datadir" in old:
        old, new = f"--datadir {tiny_scene.name}", "--datadir nothing"
    status, _, error = run(study(**{old: new}))
    assert status == 2
    assert error.startswith("experiments: error: ")
    assert error.count("\n") == 1
    for word in words:
        assert word in error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["practices", "--jobs", "2"], "no effect on practices"),
        (["bottleneck", "--columns", "lego"], "no effect on bottleneck"),
        (["bottleneck", "--flags=--half_res"], "no effect on bottleneck"),
        (["gap", "--jobs", "2", "--threads", "2"], "leave --threads out"),
    ],
)
def test_flags_that_would_do_nothing_are_refused(arguments, words, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert words in capsys.readouterr().err


def test_damaged_results_are_named(study, run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "trial.json").write_text('{"runs": {"a": 1}}')
    status, _, error = run(study())
    assert status == 2
    assert "trial.json" in error
    assert "cannot be continued" in error


def test_a_column_that_is_not_there(study, run):
    status, _, error = run(study(), "--columns", "voxels")
    assert status == 2
    assert "no column 'voxels'; it has mlp; grid" in error


def test_flags_of_the_command_line_count_last(study, run, tmp_path):
    more = ("--seeds", "1", "--scenes", "grid", "--flags=--testskip=1000 --N_iters 3")
    status, table, _ = run(study(), *more)
    assert status == 0
    assert table.count(" --testskip 1000 --N_iters 3`") == 3
    for one in results(tmp_path).values():
        assert (one["steps"], one["views"]) == (3, 1)
    for wrong, words in (("--flags=--no_such 1", "--no_such"), ("--flags='", "--flags ': No closing quotation")):
        status, _, error = run(study(), *more[:-1], wrong)
        assert status == 2
        assert words in error
        assert error.count("\n") == 1


@pytest.mark.parametrize("name", sorted({*VIEWS, *(path.stem for path in views.CONFIGS.glob("*.txt"))}))
def test_the_studies_that_come_with_the_program_are_whole(name, tmp_path):
    """Every cell's flags are train.py's, with a config that exists."""
    study = read_study(views.CONFIGS / f"{name}.txt")
    for row, column in study.cells():
        assert study.arguments(row, column, tmp_path)
    with pytest.raises(UserError):
        reduced(study, None, None, ["no such column"])
