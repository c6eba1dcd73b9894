"""The program as a person runs it, on a data set of noise."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_matrix

pytest.importorskip("torch_geometric", reason="pip install torch_geometric")
pytest.importorskip("sklearn", reason="pip install scikit-learn")

from planetoid_files import write_planetoid

from nerf_dfa.errors import UserError
from nerf_dfa.graph import __main__ as program
from nerf_dfa.graph import figure, tables
from nerf_dfa.graph.__main__ import main
from nerf_dfa.graph.planetoid import DATASETS
from nerf_dfa.graph.published import ACCURACY, AUC_AP, TABLES
from nerf_dfa.graph.settings import Settings
from nerf_dfa.graph.task import train
from nerf_dfa.training.settings import make_settings, read_config

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "graph").glob("*.txt"))


@pytest.fixture
def where(tmp_path):
    """Flags that say where the data are and where results go."""
    write_planetoid(tmp_path / "data")
    return ["--root", str(tmp_path / "data"), "--out", str(tmp_path / "out")]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_says_what_its_name_says(path):
    settings = make_settings(Settings, read_config(path, Settings), str(path))
    dataset, model, column = path.stem.split("-")
    assert (settings.dataset, settings.model) == (dataset, model)
    assert column in (settings.learning_rule, "best")
    if column == "best":
        assert settings.learning_rule in ("dfa", "dkp", "fdfa")  # no weight is transported


@pytest.mark.parametrize("name", TABLES)
def test_every_cell_has_a_config_and_a_published_number(name):
    table, stems = TABLES[name], {path.stem for path in CONFIGS}
    keys = [(d, m, c) for d in DATASETS for m in table.models for c in table.columns]
    assert {"-".join(key) for key in keys} <= stems
    known = {"accuracy": ACCURACY, "links": AUC_AP}.get(table.what)
    assert known is None or {key for key in keys if key[2] != "best"} <= set(known)


def test_one_run_and_again(where, tmp_path, capsys):
    command = ["--model", "gcn", "--learning_rule", "dfa", "--epochs", "3", "--seeds", "2", "--save", *where]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "cora-gcn-dfa, 2 seeds, accuracy: " in out
    assert "(79.9)" in out
    path = tmp_path / "out" / "cora-gcn-dfa.json"
    first = json.loads(path.read_text())
    assert sorted(first["runs"]) == ["0", "1"]
    assert first["settings"]["epochs"] == 3
    assert [p.name for p in (tmp_path / "out/cora-gcn-dfa/seed_1").iterdir()] == ["000003.tar"]
    assert main([*command[:7], "3", *command[8:]]) == 0
    again = json.loads(path.read_text())
    assert {seed: again["runs"][seed] for seed in "01"} == first["runs"]
    assert sorted(again["runs"]) == ["0", "1", "2"]


def test_table_goes_on_where_it_stopped(where, tmp_path, monkeypatch, capsys):
    command = ["--table", "A.4", "--datasets", "cora", "--models", "gcn,gat", "--epochs", "2", *where]
    trained = []

    def interrupted(settings, *rest, **root):
        if len(trained) == 4:
            raise KeyboardInterrupt
        trained.append((settings.model, settings.learning_rule))
        return train(settings, *rest, **root)

    def noted(settings, *rest, **root):
        trained.append((settings.model, settings.learning_rule))
        return train(settings, *rest, **root)

    monkeypatch.setattr(program, "train", interrupted)
    assert main(command) == 130
    assert "the same command goes on" in capsys.readouterr().err
    monkeypatch.setattr(program, "train", noted)
    assert main(command) == 0
    assert trained == [(model, rule) for model in ("gcn", "gat") for rule in ("bp", "dfa", "shallow")]
    text = (tmp_path / "out" / "table_A.4.md").read_text()
    assert text.strip() == capsys.readouterr().out.strip()
    assert "| model | cora bp | cora dfa | cora shallow |" in text
    assert all(f"({value})" in text for value in ("80.1", "79.9", "37.0", "82.6", "80.6", "59.4"))


def test_link_and_alignment_tables(where, capsys):
    assert main(["--table", "4", "--datasets", "cora", "--epochs", "2", *where]) == 0
    assert "(0.900 / 0.900)" in capsys.readouterr().out
    assert main(["--table", "A.2", "--datasets", "cora", "--models", "cheb,dna", "--epochs", "2", *where]) == 0
    out = capsys.readouterr().out
    dna = next(line for line in out.splitlines() if line.startswith("| dna"))
    assert dna.count("±") == 7  # six layers, and the published number
    assert "(0.92 ± 0.30)" in dna
    assert "at the end of training" in out


def test_a_process_of_its_own_gives_the_same(where, tmp_path):
    command = ["--model", "gcn", "--epochs", "2", *where[:2]]
    for jobs in "12":
        assert main([*command, "--jobs", jobs, "--out", str(tmp_path / jobs)]) == 0
    one, other = (json.loads((tmp_path / jobs / "cora-gcn-dfa.json").read_text())["runs"]["0"] for jobs in "12")
    assert {**one, "seconds": 0} == {**other, "seconds": 0}


def test_an_autoencoder_that_diverges_is_named(where, capsys):
    assert main(["--model", "gae", "--lr", "1e30", "--epochs", "2", *where]) == 2
    assert capsys.readouterr().err == (
        "graph: error: cora-gae-dfa, seed 0: training diverged in its first epoch; a lower lr may help\n"
    )


def test_tsne_figure(where, tmp_path):
    assert main(["--tsne", "gcn", "--datasets", "cora", "--epochs", "2", *where]) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["tsne-cora-gcn.png"]
    assert (tmp_path / "out" / "tsne-cora-gcn.png").read_bytes()[1:4] == b"PNG"


def test_tsne_folder_is_tried_before_the_training(where, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(figure, "fit", lambda *_: pytest.fail("trained"))
    (tmp_path / "out" / ".tsne-cora-gcn.lock").mkdir(parents=True)  # a file that cannot be opened, even by root
    assert main(["--tsne", "gcn", "--datasets", "cora", *where]) == 2
    assert "tsne-cora-gcn.lock: Is a directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--dataset corra", "dataset = corra: expected one of cora, citeseer, pubmed"),
        ("--model gin", "model = gin: expected one of cheb"),
        ("--dropout 1", "dropout = 1: expected a number, at least 0 and below 1"),
        ("--epochs 2.5", "epochs = 2.5: expected a whole number, at least 1"),
        ("--lr nan", "lr = nan: expected a number"),
        ("--learning_rule bp --feedback normal", "feedback has no effect here: only dfa and modular"),
        (
            "--feature_dropout False",
            "feature_dropout has no effect here: dna never drops features, nor does dropout = 0",
        ),
        ("--attention_dropout .5", "attention_dropout has no effect here: only gat and dna"),
        ("--model dna --learning_rule fa", "learning_rule = fa: model dna has bp, shallow"),
        ("--dataset citeseer", "ind.citeseer.x and 7 more not found; --root names the folder that has CiteSeer/raw"),
        ("--table 3 --datasets ,", "--datasets ,: unknown ''"),
        ("--table 3 --lr 1", "--lr has no effect here: the table and the figure go by their configs"),
        ("--models gcn", "--models has no effect here: only --table and --tsne read it"),
        ("--tsne gcn --models gat", "--models has no effect here: --tsne trains its model once by each rule"),
        ("--tsne gcn --save", "--save has no effect here: --tsne trains"),
        ("--tsne gcn --seeds 2", "--seeds has no effect here: --tsne trains"),
        ("--tsne gcn --jobs 2", "--jobs has no effect here: --tsne trains"),
        ("--table 3 --datasets cora,core", "--datasets cora,core: unknown 'core'"),
        ("--table 5", "argument --table: invalid choice"),
        ("--seeds 0", "'0' is not a whole number above 0"),
        ("--config nowhere.txt", "nowhere.txt: cannot be read"),
    ],
)
def test_mistakes_are_one_line(where, capsys, flags, message):
    assert main([*where, *flags.split()]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("graph: error: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model = gcn\nmodel = gat\n", "its key stands there twice"),
        ("modell = gcn\n", "unknown key 'modell'"),
        ("model\n", "'model' is not 'key = value'"),
        ("lr = fast\n", "lr = fast: expected a number"),
    ],
)
def test_mistakes_in_a_config_name_the_file(tmp_path, where, capsys, text, message):
    path = tmp_path / "wrong.txt"
    path.write_text(text)
    assert main(["--config", str(path), *where]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "wrong.txt" in error


@pytest.mark.parametrize(
    "command", ["--epochs 2", "--table A.4 --datasets cora --epochs 2", "--tsne gcn --datasets cora"]
)
def test_results_that_cannot_be_written(where, tmp_path, capsys, command):
    (tmp_path / "file").write_text("")
    assert main([*command.split(), *where[:2], "--out", str(tmp_path / "file")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"graph: error: cannot write {tmp_path / 'file'}: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"allx": b"\x80\x02"}, "ind.cora.allx: cannot be read, it is damaged or cut short"),
        ({"y": np.eye(3)[[0, 1] * 4 + [0]], "ally": np.eye(3)[[0, 1] * 260]}, "class 2 has no labelled training node"),
        ({"tx": csr_matrix(np.ones((29, 5)))}, "ind.cora.tx is 5 wide, and ind.cora.allx is 12"),
    ],
)
def test_files_that_do_not_fit_are_one_line(tmp_path, capsys, changed, message):
    write_planetoid(tmp_path, **changed)
    for command in ([], ["--table", "3", "--datasets", "cora"]):
        assert main(["--root", str(tmp_path), "--out", str(tmp_path / "out"), *command]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_results_of_other_settings_are_not_continued(where, tmp_path, capsys):
    assert main(["--epochs", "2", *where]) == 0
    assert main(["--epochs", "3", *where]) == 2
    assert "cora-gcn-dfa.json is of other settings; move it away, or give another --out" in capsys.readouterr().err
    (tmp_path / "out" / "cora-gcn-dfa.json").write_text("{")
    assert main(["--epochs", "2", *where]) == 2
    assert "cannot be continued" in capsys.readouterr().err


def test_config_whose_name_lies(tmp_path):
    (tmp_path / "cora-gae-bp.txt").write_text("dataset = cora\nmodel = gcn\nlearning_rule = bp\n")
    with pytest.raises(UserError, match="it is of cora and gcn, its name says otherwise"):
        list(tables.table_cells(TABLES["4"], ["cora"], tmp_path, tmp_path))
