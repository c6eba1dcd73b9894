"""The program as a person runs it."""

import json
from pathlib import Path

import pytest

pytest.importorskip("tokenizers", reason="pip install tokenizers")

from nerf_dfa.errors import UserError
from nerf_dfa.language.__main__ import main
from nerf_dfa.language.published import PERPLEXITY, TABLES
from nerf_dfa.language.settings import Settings
from nerf_dfa.language.text import read_text
from nerf_dfa.language.tokenizer import train_tokenizer
from nerf_dfa.training.settings import make_settings, read_config

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "language").glob("*.txt"))


@pytest.fixture
def where(tmp_path):
    return ["--out", str(tmp_path / "out")]


def flags(given):
    return [word for key, value in given.items() for word in (f"--{key}", value)]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_says_what_its_name_says(path):
    settings = make_settings(Settings, read_config(path, Settings), str(path))
    text, rule, *kinds = path.stem.split("-")
    assert Path(settings.text).stem.startswith({"wikitext": "wikitext", "reviews": "movie_reviews"}[text])
    assert settings.learning_rule == rule
    if rule not in ("bp", "shallow"):
        assert settings.dfa_placement == kinds[0]
        assert settings.error_at == "logits"  # no weight is transported
    for kind in kinds:
        schedule, beta2 = kind.rstrip("0123456789"), kind.lstrip("abcdefghijklmnopqrstuvwxyz")
        if beta2:
            assert settings.beta2 == float(f"0.{beta2}")
            assert settings.schedule == {"adam": "constant", "warmup": "warmup"}[schedule]
    assert settings.attention in (*kinds, "dot")


def test_every_cell_has_a_config():
    assert {run for table in TABLES.values() for run in table.runs} <= {path.stem for path in CONFIGS}
    assert set(TABLES["5"].runs) == set(PERPLEXITY)


def test_one_run_and_again_and_samples(tiny, where, tmp_path, capsys):
    command = [*flags(tiny), "--save", *where]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "validation perplexity: " in out
    (path,) = (tmp_path / "out").glob("*.json")
    first = json.loads(path.read_text())
    assert list(first["runs"]) == ["0"]
    assert main([*command, "--seeds", "2"]) == 0
    assert json.loads(path.read_text())["runs"]["0"] == first["runs"]["0"]
    capsys.readouterr()
    checkpoint = tmp_path / "out" / path.stem / "seed_1" / "000004.tar"
    command = ["--generate", "the cat", "--checkpoint", str(checkpoint), "--tokens", "5", *where]
    assert main([*command, "--temperature", "0"]) == 0
    assert capsys.readouterr().out.startswith("the cat")


def small_configs(tmp_path, tiny):
    folder = tmp_path / "configs"
    folder.mkdir()
    for run in TABLES["rules"].runs:
        rule, *placement = run.removeprefix("reviews-").split("-")
        keys = {**tiny, "learning_rule": rule, **({"dfa_placement": placement[0]} if placement else {})}
        del keys["text"]
        (folder / f"{run}.txt").write_text("".join(f"{key} = {value}\n" for key, value in keys.items()))
    return ["--table", "rules", "--configs", str(folder), "--text", tiny["text"]]


def test_table_goes_on_where_it_stopped(tiny, where, tmp_path, monkeypatch, capsys):
    command = [*small_configs(tmp_path, tiny), "--steps", "2", *where]
    from nerf_dfa.language import __main__ as program
    from nerf_dfa.language.task import train

    trained = []

    def interrupted(settings, *rest, **options):
        if len(trained) == 3:
            raise KeyboardInterrupt
        trained.append(settings.learning_rule)
        return train(settings, *rest, **options)

    monkeypatch.setattr(program, "train", interrupted)
    assert main(command) == 130
    assert "the same command goes on" in capsys.readouterr().err
    monkeypatch.setattr(program, "train", lambda s, *r, **o: trained.append(s.learning_rule) or train(s, *r, **o))
    assert main(command) == 0
    assert trained == ["bp", "dfa", "dfa", "shallow", "dkp", "fdfa"]
    text = (tmp_path / "out" / "table_rules.md").read_text()
    assert text.strip() == capsys.readouterr().out.strip()
    row = next(line for line in text.splitlines() if line.startswith("| reviews-dfa-micro |"))
    assert row.split("|")[-2].count(".") == 6  # an alignment for each point of two blocks
    assert "290 tokens; 2 layers of 16; 2 steps of 4 x 16 tokens" in text


def test_published_number_beside_ours(tiny, tmp_path, where, monkeypatch, capsys):
    monkeypatch.setitem(TABLES, "5", type(TABLES["5"])("one", ("wikitext-bp",)))
    keys = {key: value for key, value in tiny.items() if key != "text"}
    (tmp_path / "wikitext-bp.txt").write_text("".join(f"{k} = {v}\n" for k, v in keys.items()))
    assert main(["--table", "5", "--configs", str(tmp_path), "--text", tiny["text"], *where]) == 0
    assert "(29.8)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("--heads 3", "width = 16: expected an even multiple of heads = 3"),
        ("--learning_rule fa", "learning_rule = fa: expected one of bp, shallow"),
        ("--learning_rule bp --dfa_placement micro", "dfa_placement has no effect here: bp and shallow have"),
        ("--learning_rule bp --feedback normal", "feedback has no effect here: only dfa and modular"),
        ("--learning_rule modular --feedback hashed", "feedback = hashed: modular's modules"),
        ("--feedback_entries 3", "feedback_entries has no effect here"),
        ("--feedback sparse --feedback_entries 291", "feedback_entries = 291: the error has 290 numbers"),
        ("--feedback_buckets 3", "feedback_buckets has no effect here: only a hashed matrix has them"),
        ("--layers 1 --error_at decoder_input", "layers = 1: with error_at = decoder_input there is no block"),
        ("--factor 2", "factor has no effect here: only warmup"),
        ("--vocabulary 100", "vocabulary = 100: expected a whole number, at least 257"),
        ("--vocabulary 5000", "prose.txt: too short for 5000 tokens, it has"),
        ("--chunk 100000", "prose.txt: its training part has"),
        ("--text nowhere.txt", "nowhere.txt: not found; --text names a text file, or a folder with wiki.train.tokens"),
        ("--temperature 1", "--temperature has no effect here: only --generate reads it"),
        ("--configs .", "--configs has no effect here: only --table reads it"),
        ("--config nowhere.txt", "nowhere.txt: cannot be read"),
        ("--seeds 0", "'0' is not a whole number above 0"),
    ],
)
def test_mistakes_are_one_line(tiny, where, capsys, command, message):
    assert main([*flags(tiny), *where, *command.split()]) == 2
    one_line(capsys, message)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("--generate the", "--generate needs --checkpoint FILE"),
        ("--generate the --checkpoint a.tar --lr 1", "--lr has no effect here: --generate goes by its checkpoint"),
        ("--generate the --checkpoint a.tar", "tokenizer.json: cannot be read"),
        ("--generate the --checkpoint a.tar --seed -1", "'-1' is not a whole number from 0 to 2^63 - 1"),
        (f"--generate the --checkpoint a.tar --seed {1 << 64}", f"'{1 << 64}' is not a whole number from 0 to"),
        ("--generate the --checkpoint a.tar --temperature -1", "'-1' is not a number, at least 0"),
        ("--table 6", "argument --table: invalid choice"),
        ("--table rules --lr 1", "--lr has no effect here: the table goes by its configs"),
    ],
)
def test_mistakes_of_other_commands_are_one_line(where, capsys, command, message):
    assert main([*where, *command.split()]) == 2
    one_line(capsys, message)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", "there is no text in it"),
        (b"a short\ntext of\nlines\n", "too short for 290 tokens"),
        (b"good\nca\xe9fe\n\n", "not UTF-8: byte 0xe9 at position 7 (line 2)"),
    ],
)
def test_bad_text_is_one_line(tiny, where, tmp_path, capsys, contents, message):
    path = tmp_path / "bad.txt"
    path.write_bytes(contents)
    assert main([*flags(tiny), "--text", str(path), *where]) == 2
    one_line(capsys, f"{path}: {message}")


def one_line(capsys, message):
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("language: error: ")
    assert error.count("\n") == 1


def test_as_many_flags_as_there_are(tiny, where, tmp_path):
    more = {"learning_rule": "dfa", "dfa_placement": "macro", "error_at": "logits", "feedback": "uniform"}
    more |= {"hidden_rate": "1.0", "optimizer": "adam", "beta2": "0.999", "clip": "0.5", "unigram_bias": "False"}
    assert main([*flags({**tiny, **more}), *where]) == 0
    assert len(list((tmp_path / "out").glob("*.json"))) == 1


def test_results_that_cannot_be_written(tiny, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main([*flags(tiny), "--out", str(tmp_path / "file")]) == 2
    one_line(capsys, f"cannot write {tmp_path / 'file'}")


def test_real_wikitext(data):
    path = data / "wikitext" / "wiki.valid.tokens"
    if not path.is_file():
        pytest.skip(f"no {path}")
    text = read_text(path)
    pairs = train_tokenizer(text.parts["val"], 400, True, str(path))
    assert pairs.decode(pairs.encode(text.parts["test"])) == pairs.seen(text.parts["test"])
    with pytest.raises(UserError, match=r"wiki\.train\.tokens: not found"):
        read_text(path.parent)
