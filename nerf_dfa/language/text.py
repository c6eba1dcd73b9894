"""Text from the disk: what is in it, and which part of it is for training."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nerf_dfa.errors import UserError

PARTS = ("train", "val", "test")
WIKITEXT = {"train": "wiki.train.tokens", "val": "wiki.valid.tokens", "test": "wiki.test.tokens"}
HELD_OUT = 0.03  # share of a single file's lines that validates, and as much again tests


@dataclass(frozen=True)
class Text:
    """train, val, test: the parts; where: the file or folder, for messages; digest: changes with the contents."""

    parts: dict[str, str]
    where: Path
    digest: str


def read_text(path: Path) -> Text:
    """A text file, whose last lines validate and test, or a folder with the three files of WikiText.

    Raises UserError for what cannot be read, is empty or is not UTF-8.
    """
    if path.is_dir():
        parts = {part: _read(path / name) for part, name in WIKITEXT.items()}
    else:
        parts = _split(_read(path), path)
    digest = hashlib.sha256()
    for part in PARTS:
        digest.update(parts[part].encode() + b"\xff")  # which no text contains
    return Text(parts, path, digest.hexdigest())


def lines(text: str) -> Iterator[str]:
    """The text in lines, each with its end; joined they are the text again."""
    start = 0
    while start < len(text):
        end = text.find("\n", start) + 1 or len(text)
        yield text[start:end]
        start = end


def words(text: str) -> int:
    """How many pieces there are between white space."""
    return sum(len(line.split()) for line in lines(text))


def _read(path: Path) -> str:
    try:
        contents = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: not found; --text names a text file, or a folder with {_wikitext()}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    try:
        text = contents.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = contents.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}: not UTF-8: byte 0x{contents[error.start]:02x} at position {error.start} (line {line}); "
            "convert the file first"
        ) from None
    text = text.removeprefix("\ufeff")
    if not text.strip():
        raise UserError(f"{path}: there is no text in it")
    return text


def _split(text: str, path: Path) -> dict[str, str]:
    """The last lines validate and test, so that no part has a piece of another's."""
    all_lines = list(lines(text))
    held_out = max(1, round(HELD_OUT * len(all_lines)))
    if len(all_lines) < 3:
        raise UserError(
            f"{path}: has {len(all_lines)} lines, and needs 3 at least: one to train, to validate and to test"
        )
    bounds = {"train": (0, -2 * held_out), "val": (-2 * held_out, -held_out), "test": (-held_out, None)}
    parts = {part: "".join(all_lines[slice(*bound)]) for part, bound in bounds.items()}
    for part, piece in parts.items():
        if not piece.strip():
            raise UserError(f"{path}: its {part} part (of 3 % of the lines, at the end, for val and test) is blank")
    return parts


def _wikitext() -> str:
    return ", ".join(WIKITEXT.values())
