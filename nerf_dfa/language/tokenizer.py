"""A byte-pair tokenizer: pieces of text that occur often become numbers.

It works on bytes (every text has tokens, and they give the text back), never across lines, and token 0 stands before
every text.
"""

from __future__ import annotations

import hashlib
from itertools import chain, islice
from pathlib import Path

import numpy as np
from jaxtyping import UInt16, UInt32
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from nerf_dfa.errors import UserError
from nerf_dfa.files import write_text
from nerf_dfa.language.text import lines

START = "<|start|>"  # token 0
LINES = 10_000  # that are turned into tokens at a time

Tokens = UInt16[np.ndarray, " tokens"] | UInt32[np.ndarray, " tokens"]


class BytePairs:
    """Text to tokens and back.

    fingerprint: the same for the same tokenizer; a model is of no use with another's tokens.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        tokenizer.encode_special_tokens = True  # the start's name in a text is text
        self._tokenizer = tokenizer
        self.size = tokenizer.get_vocab_size()
        self.fingerprint = hashlib.sha256(tokenizer.to_str().encode()).hexdigest()[:16]

    def encode(self, text: str) -> Tokens:
        """The start, then the tokens of the lines one after the other."""
        kind = np.uint16 if self.size <= 1 << 16 else np.uint32
        parts, rest = [np.zeros(1, kind)], lines(text)
        while batch := list(islice(rest, LINES)):
            encoded = self._tokenizer.encode_batch_fast(batch)
            parts.append(np.fromiter(chain.from_iterable(line.ids for line in encoded), kind))
        return np.concatenate(parts)

    def decode(self, tokens: Tokens | list[int]) -> str:
        """The text of the tokens without the start; bytes that are no UTF-8 become U+FFFD."""
        return self._tokenizer.decode([int(token) for token in tokens if token], skip_special_tokens=False)

    def seen(self, text: str) -> str:
        """The text as the tokens give it back: in lower case, if that is how the tokenizer works."""
        normalizer = self._tokenizer.normalizer
        return text if normalizer is None else normalizer.normalize_str(text)

    def save(self, path: Path) -> None:
        write_text(path, self._tokenizer.to_str())


def train_tokenizer(text: str, size: int, lower_case: bool, where: str) -> BytePairs:
    """Merges the commonest pairs until there are `size` tokens. where: the text's name, for messages.

    Raises UserError for a text that has too few different pieces.
    """
    tokenizer = Tokenizer(models.BPE())
    if lower_case:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[START],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines(text), trainer)
    made = BytePairs(tokenizer)
    if made.size != size:
        raise UserError(f"{where}: too short for {size} tokens, it has {made.size}; give --vocabulary {made.size}")
    return made


def load_tokenizer(path: Path) -> BytePairs:
    """Raises UserError for a file that is missing or no tokenizer of this program."""
    try:
        tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    except Exception as error:  # the library raises plain Exception
        raise UserError(f"{path}: no tokenizer ({' '.join(str(error).split())})") from None
    if tokenizer.token_to_id(START) != 0:
        raise UserError(f"{path}: a tokenizer of another program: its token 0 is not {START}")
    return BytePairs(tokenizer)


def check_same(tokenizer: BytePairs, fingerprint: str, checkpoint: Path, where: Path) -> None:
    """Raises UserError where the checkpoint was trained with the tokens of another tokenizer than that of `where`."""
    if tokenizer.fingerprint != fingerprint:
        raise UserError(
            f"{checkpoint}: trained with the tokenizer {fingerprint}, and {where} is {tokenizer.fingerprint}; "
            "a model cannot read another vocabulary"
        )
