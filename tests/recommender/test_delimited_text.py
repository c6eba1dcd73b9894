"""Blocks of delimited text against Python's own split and int."""

from pathlib import Path

import numpy as np
import pytest

from nerf_dfa.errors import UserError
from nerf_dfa.recommender import text
from nerf_dfa.recommender.text import Lines, allowed_bytes, read_blocks

PATH = Path("some.tsv")


def lines(content, columns=3, first_row=1):
    return Lines(PATH, content.encode(), first_row, columns, "\t")


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", [True, False])
def test_cells_are_those_of_split(end, last):
    rows = [["1", "", "abc"], ["-12", "x y", ""], ["", "", ""], ["0", "12345678", "123456789"]]
    content = end.join("\t".join(row) for row in rows) + end * last
    found = lines(content)
    assert [[found.cell(i, j) for j in range(3)] for i in range(4)] == rows


def test_keys_are_the_last_eight_bytes():
    found = lines("a\tabcdefgh\tabcdefghi\n\tb\t\n").keys(slice(0, 3))
    expected = [[b"a", b"abcdefgh", b"bcdefghi"], [b"", b"b", b""]]
    assert found.tolist() == [[int.from_bytes(cell, "big") for cell in row] for row in expected]


def test_integers_are_those_of_int(rng):
    values = np.concatenate([rng.integers(-(10**7), 10**8, 200), 10 ** np.arange(17), -(10 ** np.arange(17)), [0]])
    content = "".join(f"{value}\t\t{-value}\n" for value in values)
    found, missing = lines(content).integers(slice(0, 3))
    np.testing.assert_array_equal(found[:, 0], values)
    np.testing.assert_array_equal(found[:, 2], -values)
    assert missing.tolist() == [[False, True, False]] * len(values)


@pytest.mark.parametrize("wrong", ["1.5", "-", "1-2", "--1", "x", "1 ", "+1", "123456789x", "-12345678x", "9" * 30])
def test_what_is_no_integer_is_named(wrong):
    with pytest.raises(UserError, match=rf"some\.tsv, row 12: column 2 is '{wrong[:40].replace('+', '.')}'; expected"):
        lines(f"1\t2\t3\n1\t{wrong}\t3\n", first_row=11).integers(slice(1, 2))


@pytest.mark.parametrize("wrong", ["2", "", "01", "a", "-1"])
def test_what_is_no_bit_is_named(wrong):
    with pytest.raises(UserError, match=rf"row 2: column 1 is '{wrong}'; expected a label 0 or 1"):
        lines(f"1\t2\t3\n{wrong}\t1\t3\n").bits(0, "a label")


@pytest.mark.parametrize("wrong", ["xyz", "123456789"])
def test_characters_that_are_not_allowed_are_named(wrong):
    with pytest.raises(UserError, match=f"row 3: column 3 is '{wrong}'; digits"):
        lines(f"1\t2\t3\n\t\t\n1\t2\t{wrong}\n").short_keys(slice(0, 3), allowed_bytes("0123456789"), "digits")


@pytest.mark.parametrize(
    ("content", "row", "found"),
    [
        ("1\t2\t3\n1\t2\n1\t2\t3\n", 2, 2),
        ("1\t2\t3\n1\t2\t3\t4\n", 2, 4),
        ("1\t2\t3\n\n1\t2\t3\n", 2, 1),
        ("1\t2\n1\t2\t3\t4\n", 1, 2),  # as many cells in all as two whole rows
        ("1\t2\t3\n1\t2", 2, 2),
    ],
)
def test_row_of_another_length_is_named(content, row, found):
    with pytest.raises(UserError, match=rf"some\.tsv, row {row}: {found} columns; expected 3"):
        lines(content)


def test_null_character_is_named():
    with pytest.raises(UserError, match="row 2: a null character"):
        lines("1\t2\t3\n1\t\0\t3\n")


@pytest.mark.parametrize("size", [1, 5, 7, 100])
def test_blocks_join_to_the_file(tmp_path, monkeypatch, size):
    monkeypatch.setattr(text, "BLOCK", size)
    path = tmp_path / "lines"
    content = b"one\ntwo\n\nthree\nfour"
    path.write_bytes(content)
    blocks = list(read_blocks(path))
    assert b"".join(block for block, _ in blocks) == content
    assert all(block.endswith(b"\n") for block, _ in blocks[:-1])
    for i, (_, end) in enumerate(blocks):
        assert b"".join(block for block, _ in read_blocks(path, end)) == b"".join(b for b, _ in blocks[i + 1 :])


def test_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="nothing: cannot be read"):
        list(read_blocks(tmp_path / "nothing"))
