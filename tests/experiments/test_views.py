"""Studies of view synthesis, run on a tiny scene."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from experiments.trials import collapsing_from, results
from matplotlib.figure import Figure
from PIL import Image

from nerf_dfa.errors import UserError
from nerf_dfa.experiments import VIEWS, cells, view_tables, views
from nerf_dfa.experiments.__main__ import main
from nerf_dfa.experiments.cells import held_out
from nerf_dfa.experiments.studies import read_study, reduced
from nerf_dfa.files import alone
from nerf_dfa.nerf import collapse
from nerf_dfa.nerf.collapse import RESTARTS, Collapsed
from nerf_dfa.nerf.presets import PRESETS
from nerf_dfa.scenes import load_scene


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


def test_published_numbers_stand_in_the_figure(study, run, tmp_path):
    path = study()
    assert run(path, "--seeds", "1")[0] == 0
    runs = view_tables.Cells(replace(read_study(path), seeds=1), results(tmp_path))
    axes = view_tables.dots(Figure, runs, tmp_path).axes
    assert [label.get_text() for label in axes[0].get_yticklabels()][-2:] == [
        "published, NeRF BP",
        "published, NeRF DFA",
    ]
    crosses = [[line.get_xdata()[0] for line in panel.lines if line.get_marker() == "x"] for panel in axes]
    assert crosses == [[32.54, 24.93], []]  # of lego, and of a column that says no scene


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
