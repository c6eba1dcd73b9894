"""Tokens: there and back, kept on the disk, cut into chunks."""

import json

import numpy as np
import pytest

pytest.importorskip("tokenizers", reason="pip install tokenizers")

from tokenizers import Tokenizer, models

from nerf_dfa.errors import UserError
from nerf_dfa.language.data import Chunks, load_corpus, windows
from nerf_dfa.language.tokenizer import load_tokenizer, train_tokenizer

STRANGE = "Ünïcode 日本語 🎬 <|start|>!\n\n\t  two  spaces \x00 end"


@pytest.fixture(scope="module")
def pairs(prose):
    return train_tokenizer(prose, 290, False, "prose")


def test_round_trip(pairs, prose):
    tokens = pairs.encode(prose)
    assert tokens[0] == 0
    assert tokens.dtype == np.uint16
    assert pairs.decode(tokens) == prose
    assert len(tokens) < 0.6 * len(prose.encode())
    assert pairs.decode(pairs.encode(STRANGE)) == STRANGE
    assert list(pairs.encode(STRANGE)).count(0) == 1
    assert pairs.decode([]) == ""


def test_lower_case(prose):
    lower = train_tokenizer(prose, 290, True, "prose")
    assert lower.decode(lower.encode("CAFÉ Naïve")) == "café naïve" == lower.seen("CAFÉ Naïve")


def test_saved_and_loaded(pairs, prose, tmp_path):
    pairs.save(tmp_path / "tokenizer.json")
    again = load_tokenizer(tmp_path / "tokenizer.json")
    assert again.fingerprint == pairs.fingerprint
    assert np.array_equal(again.encode(prose), pairs.encode(prose))
    assert train_tokenizer(prose, 289, False, "prose").fingerprint != pairs.fingerprint


def test_wrong_tokenizers(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.json: cannot be read"):
        load_tokenizer(tmp_path / "nowhere.json")
    (tmp_path / "t.json").write_text("{")
    with pytest.raises(UserError, match=r"t\.json: no tokenizer \(.*\)$"):
        load_tokenizer(tmp_path / "t.json")
    Tokenizer(models.BPE()).save(str(tmp_path / "t.json"))
    with pytest.raises(UserError, match="a tokenizer of another program"):
        load_tokenizer(tmp_path / "t.json")


def test_too_few_pieces(text_file, tmp_path):
    with pytest.raises(UserError, match=r"prose\.txt: too short for 4000 tokens, it has \d+; give --vocabulary"):
        load_corpus(text_file, 4000, True, tmp_path)


def test_corpus_is_kept(text_file, prose, tmp_path, monkeypatch):
    first = load_corpus(text_file, 290, True, tmp_path)
    monkeypatch.setattr("nerf_dfa.language.data.train_tokenizer", lambda *_: pytest.fail("made again"))
    again = load_corpus(text_file, 290, True, tmp_path)
    assert isinstance(again.parts["train"].tokens, np.memmap)
    assert "".join(again.tokenizer.decode(again.parts[part].tokens) for part in again.parts) == prose.lower()
    assert sum(part.bytes for part in again.parts.values()) == len(prose.lower().encode())
    assert sum(part.words for part in again.parts.values()) == len(prose.split())
    assert all(np.array_equal(again.parts[part].tokens, first.parts[part].tokens) for part in first.parts)


@pytest.mark.parametrize("name", ["train.npy", "val.npy", "tokenizer.json", "counts.json"])
@pytest.mark.parametrize("left", [None, 0, 150])
def test_tokens_that_are_damaged_are_made_anew(text_file, tmp_path, name, left):
    first = load_corpus(text_file, 290, True, tmp_path)
    expected = {part: first.parts[part].tokens.tolist() for part in first.parts}
    path = tmp_path / "tokens-prose-290-lower" / name
    contents = path.read_bytes()
    path.unlink()
    if left is not None:
        path.write_bytes(contents[:left])
    again = load_corpus(text_file, 290, True, tmp_path)
    assert {part: again.parts[part].tokens.tolist() for part in again.parts} == expected
    assert again.tokenizer.fingerprint == first.tokenizer.fingerprint
    assert path.read_bytes() == contents


def test_another_text_of_that_name_is_made_anew(text_file, prose, tmp_path):
    load_corpus(text_file, 290, True, tmp_path)
    text_file.write_text(prose.replace("cat", "owl"), encoding="utf-8")
    corpus = load_corpus(text_file, 290, True, tmp_path)
    assert "owl" in corpus.tokenizer.decode(corpus.parts["train"].tokens)
    counts = tmp_path / "tokens-prose-290-lower" / "counts.json"
    counts.write_text(json.dumps({"key": None, "counts": {}}))  # a making that did not end
    assert "owl" in load_corpus(text_file, 290, True, tmp_path).tokenizer.decode(corpus.parts["val"].tokens)


def test_an_epoch_has_every_chunk_once():
    tokens = np.arange(1 + 7 * 10 + 3, dtype=np.uint16)
    chunks = Chunks(tokens, 10, 2, seed=3, where="text")
    assert chunks.count == 7
    rows = np.concatenate([chunks.of_step(step).numpy() for step in range(1, 8)])  # two epochs
    assert (rows == rows[:, :1] + np.arange(11)).all()
    first, second = rows[:7, 0], rows[7:, 0]
    assert sorted(first) == sorted(second) == list(range(0, 70, 10))
    assert list(first) != list(second)
    other = Chunks(tokens, 10, 2, seed=3, where="text")
    assert (other.of_step(6).numpy() == rows[10:12]).all()  # whatever was asked for before
    assert (Chunks(tokens, 10, 7, seed=4, where="text").of_step(1).numpy()[:, 0] != first).any()


def test_a_batch_larger_than_the_text():
    chunks = Chunks(np.arange(21, dtype=np.uint16), 10, 5, seed=0, where="text")
    assert sorted(chunks.of_step(1)[:, 0].tolist())[:2] == [0, 0]


def test_text_shorter_than_a_chunk():
    with pytest.raises(UserError, match="text: its training part has 9 tokens, fewer than one chunk of 10"):
        Chunks(np.arange(10, dtype=np.uint16), 10, 1, seed=0, where="text")


@pytest.mark.parametrize("length", [5, 11, 31, 34])
def test_windows_predict_every_token_once(length):
    parts = list(windows(np.arange(length, dtype=np.uint32), 10, 2))
    assert [token for rows in parts for row in rows.tolist() for token in row[1:]] == list(range(1, length))
    assert all(rows.shape[0] <= 2 and rows.shape[1] <= 11 for rows in parts)
