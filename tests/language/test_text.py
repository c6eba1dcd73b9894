"""What of a file is text, and each way it can be none."""

import pytest

from nerf_dfa.errors import UserError
from nerf_dfa.language.text import lines, read_text, words


def test_parts_of_a_file_are_the_file(text_file, prose):
    text = read_text(text_file)
    assert "".join(text.parts[part] for part in ("train", "val", "test")) == prose
    assert [text.parts[part].count("\n") for part in ("train", "val", "test")] == [1880, 60, 60]


def test_folder_of_wikitext(tmp_path):
    for name in ("train", "valid", "test"):
        (tmp_path / f"wiki.{name}.tokens").write_text(f" = {name} = \n")
    assert read_text(tmp_path).parts == {"train": " = train = \n", "val": " = valid = \n", "test": " = test = \n"}
    (tmp_path / "wiki.train.tokens").unlink()
    with pytest.raises(UserError, match=r"wiki\.train\.tokens: not found; --text names a text file, or a folder with"):
        read_text(tmp_path)


def test_digest_tells_parts_apart(tmp_path):
    digests = set()
    for pieces in (("ab\n", "c\n", "d\n"), ("ab\n", "c\n", "e\n"), ("ab\nc\n", "d\n", "d\n")):
        for name, piece in zip(("train", "valid", "test"), pieces, strict=True):
            (tmp_path / f"wiki.{name}.tokens").write_text(piece)
        digests.add(read_text(tmp_path).digest)
    assert len(digests) == 3


def test_lines_and_words():
    text = "one  two\n\n three\tfour\u2028five \nsix"
    assert list(lines(text)) == ["one  two\n", "\n", " three\tfour\u2028five \n", "six"]
    assert words(text) == 6


def test_windows_line_ends_and_byte_order_mark(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\nthree\r\n")
    assert list(read_text(path).parts.values()) == ["one\n", "two\n", "three\n"]


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", "there is no text in it"),
        (b" \n\n \n", "there is no text in it"),
        (b"fine\ncaf\xe9 noir\n", r"not UTF-8: byte 0xe9 at position 8 \(line 2\)"),
        (b"a\nb\n", "has 2 lines, and needs 3 at least"),
        (b"a\n\nb\n", "its val part .* is blank"),
    ],
)
def test_mistakes(tmp_path, contents, message):
    path = tmp_path / "text.txt"
    path.write_bytes(contents)
    with pytest.raises(UserError, match=rf"text\.txt: {message}"):
        read_text(path)
