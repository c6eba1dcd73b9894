"""The program as a person runs it, on small synthetic data."""

import json
from pathlib import Path

import pytest

from nerf_dfa.benchmarks import recommender as benchmark
from nerf_dfa.errors import UserError
from nerf_dfa.recommender import __main__ as program
from nerf_dfa.recommender import tables
from nerf_dfa.recommender.__main__ import main
from nerf_dfa.recommender.published import SCORES, TABLES
from nerf_dfa.recommender.search import DROPOUTS, LRS
from nerf_dfa.recommender.settings import config_settings
from nerf_dfa.recommender.synthetic import main as synthetic
from nerf_dfa.recommender.task import train

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "recommender").glob("*.txt"))
TINY = "--embedding 4 --batch 200 --min_count 5 --epochs 1".split()
DEEP = [*TINY, *"--model deepfm --mlp_width 8 --mlp_blocks 2".split()]


@pytest.fixture
def where(tmp_path, clicks):
    """Flags that say where the data are and where results go."""
    return ["--data", str(clicks), "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out")]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_says_what_its_name_says(path):
    settings = config_settings(path)
    assert path.stem == f"{settings.dataset}-{settings.model}-{settings.learning_rule}"


@pytest.mark.parametrize("name", TABLES)
def test_every_cell_has_a_config(name):
    stems = {path.stem for path in CONFIGS}
    for dataset in ("criteo", "movielens"):
        assert {"-".join(key) for key in TABLES[name].keys(dataset)} <= stems
    assert TABLES[name].what != "scores" or set(TABLES[name].keys("criteo")) <= set(SCORES)


def test_one_run_and_again(where, tmp_path, capsys):
    command = [*DEEP, "--learning_rule", "dfa", "--seeds", "2", "--save", *where]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "criteo-deepfm-dfa, 2 seeds, scores: 0." in out
    assert "criteo-deepfm-dfa, 2 seeds, alignment: " in out
    path = tmp_path / "out" / "criteo-deepfm-dfa.json"
    first = json.loads(path.read_text())
    assert sorted(first["runs"]) == ["0", "1"]
    assert sorted(p.name for p in (tmp_path / "out/criteo-deepfm-dfa/seed_1").iterdir()) == ["000012.tar", "best.tar"]
    without_data = [flag for flag in command if flag not in where[:2]]
    without_data[without_data.index("--seeds") + 1] = "3"
    assert main(without_data) == 0  # the cache is there
    again = json.loads(path.read_text())
    assert {seed: again["runs"][seed] for seed in "01"} == first["runs"]
    assert sorted(again["runs"]) == ["0", "1", "2"]


def test_prepare_makes_the_cache_alone(where, tmp_path):
    assert main(["--prepare", "--min_count", "5", *where]) == 0
    assert (tmp_path / "cache" / "cache.json").exists()
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["data.json"]


def test_search_goes_on_and_chooses_by_validation(where, tmp_path, capsys, monkeypatch):
    command = [*DEEP, "--search", "--lrs", "1e-5,1e-2,0.01", "--dropouts", "0,.5", *where]
    trained = []

    def interrupted(settings, *rest, **options):
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append((settings.lr, settings.dropout))
        return train(settings, *rest, **options)

    monkeypatch.setattr(program, "train", interrupted)
    assert main(command) == 130
    monkeypatch.setattr(program, "train", lambda s, *a, **o: trained.append((s.lr, s.dropout)) or train(s, *a, **o))
    assert main(command) == 0
    assert trained == [(lr, dropout) for lr in (1e-5, 1e-2) for dropout in (0.0, 0.5)]
    out = capsys.readouterr().out
    assert "| lr | dropout 0 | dropout 0.5 |" in out
    runs = {p.stem: json.loads(p.read_text()) for p in (tmp_path / "out/search").glob("*.json")}
    best = max(runs.values(), key=lambda cell: cell["runs"]["0"]["val_auc"])
    assert f"Best: lr = {best['settings']['lr']:g}, dropout = {best['settings']['dropout']:g}; test" in out
    settings = config_settings(tmp_path / "out" / "criteo-deepfm-dfa-best.txt")
    assert {key: getattr(settings, key) for key in best["settings"]} == best["settings"]


def test_a_pair_that_diverges_is_the_worst_of_a_search(where, tmp_path, capsys):
    command = [*DEEP, "--search", "--dropouts", "0", *where]
    assert main([*command, "--lrs", "1e30,1e-3", "--seeds", "2"]) == 0
    out = capsys.readouterr().out
    assert "| 1e+30 | nan ± nan |" in out
    assert "Best: lr = 0.001, dropout = 0; test" in out
    assert main([*command, "--lrs", "1e30"]) == 2
    assert "training diverged at every pair of the search; give lower --lrs" in capsys.readouterr().err


def test_a_run_that_diverges_is_named(where, capsys):
    assert main([*DEEP, "--lr", "1e30", *where]) == 2
    assert capsys.readouterr().err == (
        "recommender: error: criteo-deepfm-dfa, seed 0: training diverged in its first epoch; a lower lr may help\n"
    )


def test_the_grids_hold_the_papers_and_go_below():
    assert {round(i * 1e-4, 7) for i in range(1, 11)} <= {round(lr, 7) for lr in LRS}
    assert min(LRS) < 5e-5 in LRS
    assert DROPOUTS == (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)


def test_table_beside_the_published_numbers(where, tmp_path, capsys):
    configs = tmp_path / "configs"
    configs.mkdir()
    for model, rule in (("fm", "bp"), ("deepfm", "bp"), ("deepfm", "dfa")):
        deep = "mlp_width = 8\nmlp_blocks = 1\n" if model != "fm" else ""
        (configs / f"criteo-{model}-{rule}.txt").write_text(
            f"model = {model}\nlearning_rule = {rule}\nembedding = 4\nbatch = 500\nmin_count = 5\nepochs = 2\n{deep}"
        )
    command = ["--table", "2", "--models", "fm,deepfm", "--epochs", "1", "--configs", str(configs), *where]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert (tmp_path / "out" / "table_2_criteo.md").read_text().strip() == out.strip()
    assert all(text in out for text in ("(0.7915 / 0.4687)", "(0.7954 / 0.4610)", "(0.7956 / 0.4624)"))
    assert next(line for line in out.splitlines() if line.startswith("| fm")).endswith("|  |")
    assert main(["--table", "A.1", "--models", "deepfm", "--epochs", "1", *command[6:]]) == 0
    assert "left out" in capsys.readouterr().out
    (configs / "criteo-fm-bp.txt").write_text("model = deepfm\nlearning_rule = bp\n")
    with pytest.raises(UserError, match="it is of criteo and deepfm, its name says otherwise"):
        list(tables.table_cells(TABLES["2"], "criteo", configs, tmp_path))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--dataset crito", "dataset = crito: expected one of criteo, avazu, movielens"),
        ("--model fm", "learning_rule = dfa: fm has no hidden layer to teach; its rule is bp"),
        ("--model fm --learning_rule bp --dropout .1", "dropout has no effect here: fm has no hidden layers"),
        ("--learning_rule bp --feedback normal", "feedback has no effect here: only dfa and modular"),
        (
            "--model afn --learning_rule bp --embedding_gradient kp",
            "embedding_gradient has no effect here: only afn by feedback reads it",
        ),
        ("--cross_layers 3", "cross_layers has no effect here: only dcn reads it"),
        ("--model autoint --heads 5", "attention_width = 32: expected a multiple of heads = 5"),
        ("--dropout 1", "dropout = 1: expected a number, at least 0 and below 1"),
        ("--lrs .1", "--lrs has no effect here: only --search reads it"),
        ("--search --lrs .1,x", "lr = x: expected a number"),
        ("--table 2 --lr 1", "--lr has no effect here: the table goes by its configs"),
        ("--table 2 --search", "--table, --search and --prepare are three commands"),
        ("--search --prepare", "--table, --search and --prepare are three commands"),
        ("--models fm", "--models has no effect here: only --table reads it"),
        ("--table 2 --models fn", "--models fn: unknown 'fn'"),
        ("--table 7", "argument --table: invalid choice"),
        ("--config nowhere.txt", "nowhere.txt: cannot be read"),
        ("--data nowhere", "nowhere: neither a file nor a folder with train.tsv or train.txt"),
    ],
)
def test_mistakes_are_one_line(where, capsys, flags, message):
    assert main([*where, *flags.split()]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("recommender: error: ")
    assert error.count("\n") == 1


def test_caches_and_results_of_other_data_are_refused(where, tmp_path, capsys, clicks):
    command = [*DEEP, *where]
    assert main(command) == 0
    assert main([*command, "--min_count", "6"]) == 2
    assert "is a cache of other settings (min_count: 5 there, 6 here)" in capsys.readouterr().err
    assert main([*command[:-6], *command[-4:], "--min_count", "6"]) == 2
    assert "is a cache of criteo with min_count = 5, and criteo with min_count = 6" in capsys.readouterr().err
    assert main([*command, "--lr", "1e-3"]) == 2
    assert "criteo-deepfm-dfa.json is of other settings" in capsys.readouterr().err
    assert main([*command, "--min_count", "6", "--cache", str(tmp_path / "other")]) == 2
    assert "out has results of other data" in capsys.readouterr().err
    assert main([*command[:-6], "--cache", str(tmp_path / "none")]) == 2
    assert "none: no cache there; --data names the files" in capsys.readouterr().err
    broken = tmp_path / "train.txt"
    broken.write_text(clicks.read_text() + "1\t2\n")
    assert main([*command, "--data", str(broken), "--cache", str(tmp_path / "new")]) == 2
    assert "train.txt, row 3001: 2 columns; expected 40" in capsys.readouterr().err


def test_synthetic_data_from_the_command_line(tmp_path):
    assert synthetic([str(tmp_path / "train.txt"), "--rows", "70"]) == 0
    assert len((tmp_path / "train.txt").read_text().splitlines()) == 70


def test_a_seed_below_zero_is_one_line(tmp_path, capsys):
    assert synthetic([str(tmp_path / "train.txt"), "--seed", "-1"]) == 2
    assert capsys.readouterr().err.startswith("synthetic: error: argument --seed: '-1' is not a whole number")


def test_benchmark(capsys):
    assert benchmark.main("--rows 6000 --models fm,deepfm --steps 1 --rounds 1".split()) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rows"] == 6000
    assert set(found["training_rows_per_second"]["deepfm"]) == {"bp, dense", "bp, sparse", "dfa, dense", "dfa, sparse"}
    assert found["reading_rows_per_second"] > 0 < found["preprocessing"]["rows_per_second"]


def test_movielens_is_learnt(data, tmp_path, capsys):
    folder = data / "ml-100k"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    command = "--dataset movielens --min_count 1 --model fm --learning_rule bp --batch 1024 --lr 1e-2 --epochs 2"
    flags = ["--data", str(folder), "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out")]
    assert main([*command.split(), *flags]) == 0
    run = json.loads((tmp_path / "out" / "movielens-fm-bp.json").read_text())["runs"]["0"]
    assert run["test_auc"] > 0.75


def test_the_criteo_sample_is_learnt(data, tmp_path):
    folder = data / "criteo_sample"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    flags = ["--data", str(folder), "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out")]
    command = "--model deepfm --mlp_width 32 --batch 256 --lr 1e-3 --epochs 2 --min_count 2"
    assert main([*command.split(), *flags]) == 0
    run = json.loads((tmp_path / "out" / "criteo-deepfm-dfa.json").read_text())["runs"]["0"]
    assert run["test_auc"] > 0.65
