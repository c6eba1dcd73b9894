"""Texts that a model makes."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nerf_dfa.errors import UserError
from nerf_dfa.language.data import TOKENIZER
from nerf_dfa.language.task import load_model
from nerf_dfa.language.tokenizer import load_tokenizer


@torch.no_grad()
def sample(
    model: nn.Module,
    tokens: Int[Tensor, " tokens"],
    count: int,
    chunk: int,
    temperature: float,
    generator: torch.Generator,
) -> Int[Tensor, " all_tokens"]:
    """The tokens and `count` more, each drawn from the model's distribution given the last `chunk`.

    temperature: what logits are divided by; 0 takes the likeliest.
    """
    for _ in range(count):
        logits = model(tokens[None, -chunk:])[0, -1]
        tokens = torch.cat([tokens, draw(logits, temperature, generator)])
    return tokens


def draw(logits: Float[Tensor, " vocabulary"], temperature: float, generator: torch.Generator) -> Int[Tensor, 1]:
    """One token. The first, which only stands before texts, is never drawn. Raises UserError for logits not finite."""
    if not logits.isfinite().all():
        raise UserError("the model's logits are not finite; its training diverged")
    logits = logits.index_fill(0, torch.tensor([0]), -torch.inf)
    if temperature == 0:
        return logits.argmax(keepdim=True)
    below = (logits - logits.max()).double()  # whatever they are divided by, none overflows
    return torch.multinomial((below / temperature).float().softmax(0), 1, generator=generator)


def generate(checkpoint: Path, prompt: str, count: int, temperature: float, seed: int, tokenizer: Path | None) -> str:
    """The prompt and what the checkpoint's model adds. tokenizer: its file, if not the one beside the checkpoint."""
    where = tokenizer or checkpoint.parent / TOKENIZER
    pairs = load_tokenizer(where)
    model = load_model(checkpoint, pairs, where)
    start = torch.from_numpy(pairs.encode(prompt).astype("int64"))
    generator = torch.Generator().manual_seed(seed)
    return pairs.decode(sample(model, start, count, model.shape.chunk, temperature, generator).tolist())
