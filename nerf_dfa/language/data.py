"""Tokens of a text on the disk, mapped into memory, and the chunks of them that a step learns from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from nerf_dfa.errors import UserError
from nerf_dfa.files import write_text, written_whole
from nerf_dfa.language.text import PARTS, read_text, words
from nerf_dfa.language.tokenizer import BytePairs, Tokens, load_tokenizer, train_tokenizer

TOKENIZER = "tokenizer.json"
COUNTS = "counts.json"


@dataclass(frozen=True)
class Part:
    """tokens: the start, then those of the text, on the disk; words and bytes: of the text that they stand for."""

    tokens: Tokens
    words: int
    bytes: int


@dataclass(frozen=True)
class Corpus:
    """A text in tokens: its train, val and test part."""

    tokenizer: BytePairs
    parts: dict[str, Part]


def load_corpus(path: Path, vocabulary: int, lower_case: bool, out: Path) -> Corpus:
    """The text's tokens, made and kept in out/tokens-NAME the first time. Raises UserError."""
    text = read_text(path)
    key = {"text": text.digest, "vocabulary": vocabulary, "lower_case": lower_case}
    folder = out / f"tokens-{path.stem}-{vocabulary}{'-lower' * lower_case}"
    with suppress(OSError, EOFError, ValueError, KeyError, TypeError, UserError):
        return _kept(folder, key)
    tokenizer = train_tokenizer(text.parts["train"], vocabulary, lower_case, str(path))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / COUNTS).unlink(missing_ok=True)  # which says that the others are whole
    tokenizer.save(folder / TOKENIZER)
    counts = {}
    for part in PARTS:
        seen = tokenizer.seen(text.parts[part])
        with written_whole(folder / f"{part}.npy") as unfinished, open(unfinished, "wb") as file:
            np.save(file, tokenizer.encode(text.parts[part]))
        counts[part] = {"words": words(seen), "bytes": len(seen.encode())}
    write_text(folder / COUNTS, json.dumps({"key": key, "counts": counts}, indent=1) + "\n")
    return _kept(folder, key)


def _kept(folder: Path, key: dict) -> Corpus:
    """What the folder holds. Raises one or another exception where that is damaged or not what the key says."""
    found = json.loads((folder / COUNTS).read_text(encoding="utf-8"))
    if found["key"] != key:
        raise ValueError(f"{folder}: of another text or tokenizer")
    tokens = {part: np.load(folder / f"{part}.npy", mmap_mode="r") for part in PARTS}
    parts = {part: Part(tokens[part], **found["counts"][part]) for part in PARTS}
    return Corpus(load_tokenizer(folder / TOKENIZER), parts)


class Chunks:
    """The training part in chunks that do not overlap: in every epoch all of them, in an order of its own.

    chunk: tokens to predict in each; batch: chunks of a step. What a step gets depends on the seed and its number.
    """

    def __init__(self, tokens: Tokens, chunk: int, batch: int, seed: int, where: str) -> None:
        self.tokens, self.chunk, self.batch, self.seed = tokens, chunk, batch, seed
        self.count = (len(tokens) - 1) // chunk
        if self.count == 0:
            raise UserError(
                f"{where}: its training part has {len(tokens) - 1} tokens, fewer than one chunk of {chunk}; give more "
                "text, or a smaller --chunk"
            )
        self._orders: dict[int, np.ndarray] = {}

    def of_step(self, step: int) -> Int[Tensor, "batch chunk_and_1"]:
        """The chunks of a step, counted from 1, each with the token before it in front."""
        first = (step - 1) * self.batch
        places = (divmod(place, self.count) for place in range(first, first + self.batch))
        return self.at([int(self._order(epoch)[place]) for epoch, place in places])

    def at(self, numbers: list[int]) -> Int[Tensor, "chunks chunk_and_1"]:
        """The chunks of these numbers, in the order of the text."""
        rows = [self.tokens[number * self.chunk :][: self.chunk + 1] for number in numbers]
        return torch.from_numpy(np.stack(rows).astype(np.int64))

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            kept = {last: order for last, order in self._orders.items() if last == epoch - 1}
            self._orders = {**kept, epoch: np.random.default_rng([self.seed, epoch]).permutation(self.count)}
        return self._orders[epoch]


def windows(tokens: Tokens, chunk: int, batch: int) -> Iterator[Int[Tensor, "rows tokens_and_1"]]:
    """All tokens but the first, in chunks that do not overlap, `batch` at a time; the last may be shorter."""
    count = (len(tokens) - 1) // chunk
    for start in range(0, count, batch):
        end = min(start + batch, count)
        rows = [tokens[number * chunk :][: chunk + 1] for number in range(start, end)]
        yield torch.from_numpy(np.stack(rows).astype(np.int64))
    if (len(tokens) - 1) % chunk:
        yield torch.from_numpy(tokens[count * chunk :].astype(np.int64))[None]
