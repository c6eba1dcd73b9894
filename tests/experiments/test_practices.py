"""Studies as a person runs them, with budgets of three steps."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from nerf_dfa.experiments import bottleneck, practices, tables
from nerf_dfa.experiments.__main__ import main
from nerf_dfa.experiments.practices import read_study

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs" / "learning").glob("*.txt"))
SMALL = """
factor = activation
values = relu, tanh
rules = bp, dfa
learning_rates = 1e-3, 1e-2
seeds = 2
steps = 2
width = 8
depth = 2
"""


@pytest.fixture
def digits():
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn: pip install scikit-learn")


@pytest.fixture
def config(tmp_path) -> Path:
    path = tmp_path / "small.txt"
    path.write_text(SMALL)
    return path


def test_there_is_a_config_for_every_question():
    names = {path.stem for path in CONFIGS}
    asked = "rules activation normalisation feedback dropout norm regularisation schedule optimiser".split()
    assert set(asked) <= names


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_runs(path, tmp_path, digits):
    command = ["practices", "--config", str(path), "--out", str(tmp_path), "--steps", "3", "--seeds", "1"]
    assert main([*command, "--datadir", str(_small_fashion(tmp_path / "fashion"))]) == 0
    study = read_study(path)
    runs = json.loads((tmp_path / f"{path.stem}.json").read_text())["runs"]
    assert len(runs) == len(study.rows) * max(1, len(study.rules)) * len(study.learning_rates)
    table = (tmp_path / f"{path.stem}.md").read_text()
    assert all(f"| {label} |" in table for label, _ in study.rows)
    assert (tmp_path / f"{path.stem}.png").read_bytes()[1:4] == b"PNG"


def _small_fashion(folder: Path) -> Path:
    """A folder with the files of Fashion-MNIST, of 60 and 20 images of noise."""
    folder.mkdir()
    pixels = np.random.default_rng(0)
    for part, count in (("train", 60), ("t10k", 20)):
        images = pixels.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            (folder / f"{part}-{name}-ubyte").write_bytes(header + array.tobytes())
    return folder


def test_finished_runs_are_not_run_again(config, tmp_path, digits, monkeypatch, capsys):
    calls = []
    train = practices.train

    def counted(*arguments):
        if len(calls) == 5:
            raise KeyboardInterrupt
        calls.append(arguments)
        return train(*arguments)

    monkeypatch.setattr(practices, "train", counted)
    command = ["practices", "--config", str(config), "--out", str(tmp_path)]
    assert main(command) == 130
    assert "goes on from the last finished run" in capsys.readouterr().err
    held = json.loads((tmp_path / "small.json").read_text())["runs"]
    assert len(held) == 5
    monkeypatch.setattr(practices, "train", lambda *arguments: calls.append(arguments) or train(*arguments))
    assert main(command) == 0
    assert len(calls) == 2 * 2 * 2 * 2
    runs = json.loads((tmp_path / "small.json").read_text())["runs"]
    assert {key: runs[key] for key in held} == held
    assert main(command) == 0
    assert len(calls) == 16


def test_results_of_other_settings_are_left_alone(config, tmp_path, digits, capsys):
    command = ["practices", "--config", str(config), "--out", str(tmp_path), "--seeds", "1"]
    assert main(command) == 0
    before = (tmp_path / "small.json").read_bytes()
    capsys.readouterr()
    assert main([*command, "--steps", "1"]) == 2
    assert "small.json is of a study with other settings" in _line(capsys)
    assert (tmp_path / "small.json").read_bytes() == before


def test_bottleneck_runs_and_refuses_another_factor(config, tmp_path, digits, monkeypatch, capsys):
    monkeypatch.setattr(bottleneck, "FREE", (0, 128))
    assert main(["bottleneck", "--out", str(tmp_path), "--steps", "2", "--seeds", "1"]) == 0
    assert (tmp_path / "bottleneck.png").exists()
    capsys.readouterr()
    assert main(["bottleneck", "--config", str(config), "--out", str(tmp_path)]) == 2
    assert "factor = activation: the bottleneck experiment varies free" in _line(capsys)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("width = 8", "widht = 8", "unknown key 'widht'"),
        ("width = 8", "width = 0", "width = 0: expected a whole number, at least 1"),
        ("width = 8", "width = wide", "width = wide: expected a whole number"),
        ("width = 8", "dropout = 1", "dropout = 1: expected a number, at least 0 and below 1"),
        ("width = 8", "shared = maybe", "shared = maybe: expected one of False, True"),
        ("width = 8", "free = 100", "free = 100: the second of 2 layers has 64"),
        ("width = 8", "l2 = .1\nweight_decay = .1", "weight_decay = 0.1: only with optimiser adam and without l2"),
        ("width = 8", "width", "'width' is not 'key = value'"),
        ("width = 8", "seeds = 3", "its key stands there twice"),
        ("relu, tanh", "relu, tahn", "values: activation = tahn: expected one of relu"),
        ("relu, tanh", "relu, norm=bach", "values: norm = bach: expected one of none"),
        ("bp, dfa", "bp, dfaa", "rules: rule = dfaa: expected one of bp"),
        ("bp, dfa", "bp, hdfa", "rules: optimiser hybrid or hybrid_adam and rule hdfa go together: adam, hdfa"),
        ("factor = activation", "factor = activations", "factor = activations: expected mixed or one of"),
        ("factor = activation", "", "'factor' is missing"),
        ("1e-3, 1e-2", "1e-3, nan", "learning_rates = nan: expected a number"),
        ("seeds = 2", "seeds = 1.5", "seeds = 1.5: expected a whole number"),
    ],
)
def test_mistakes_are_said_in_one_line(config, tmp_path, capsys, old, new, said):
    assert old in SMALL
    config.write_text(SMALL.replace(old, new))
    assert main(["practices", "--config", str(config), "--out", str(tmp_path / "out")]) == 2
    line = _line(capsys)
    assert str(config) in line
    assert said in line
    assert not (tmp_path / "out").exists()


def test_missing_config_is_named(tmp_path, capsys):
    assert main(["practices", "--config", str(tmp_path / "no.txt")]) == 2
    assert "no.txt: cannot be read" in _line(capsys)
    assert main(["practices"]) == 2
    assert "practices needs --config" in _line(capsys)


def _run(row, rate, seed, val, test):
    return {"row": row, "rule": "dfa", "rate": rate, "seed": seed, "val_accuracy": val, "test_accuracy": test} | {
        "alignment": [0.5, None]
    }


def test_rate_is_chosen_on_validation_and_never_on_test():
    runs = [
        _run("a", 0.1, 0, 0.8, 0.1),
        _run("a", 0.1, 1, 0.9, 0.3),
        _run("a", 0.2, 0, 0.8, 1),
        _run("a", 0.2, 1, 0.8, 1),
    ]
    (cell,) = tables.choose({"study": {"rows": [["a", {"rate_scale": 10.0}]]}, "runs": dict(enumerate(runs))})
    assert (cell.rate, cell.test, cell.alignment) == (1.0, [0.1, 0.3], [0.5, None])
    assert (cell.mean, cell.failures) == (0.2, 1)
    assert cell.std == pytest.approx(0.02**0.5)


def _line(capsys) -> str:
    """What stands in stderr, which has to be one line."""
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    return error
