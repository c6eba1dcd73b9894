"""A Transformer that predicts the next token (Vaswani et al. 2017, the decoder alone), with feedback points.

Placement "macro": a feedback point after each block; its inside learns by backpropagation. "micro": after each
sub-layer, which are the first normalisation, the feed-forward part's ReLU and the second normalisation (with
norm = "pre", where those come first: the two sums in place of the normalisations). The embedding learns through the
first block, and under rules that cut at the points every later block's input is a leaf, for which nothing is computed.

The error is taken at the logits, so that no weight is transported, or at the decoder's input, as in the code of
Launay et al. 2020: it then is the exact gradient of the last block's output, which contains the decoder's weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from nerf_dfa.language.attention import ATTENTIONS
from nerf_dfa.learning import make_rule
from nerf_dfa.learning.rules import Rule
from nerf_dfa.learning.tapes import Tape

# Not drtp, whose targets would be a row of the vocabulary for each token, nor rules with an optimiser of their own.
RULES = ("bp", "shallow", "dfa", "dkp", "fdfa", "modular")


@dataclass(frozen=True)
class Shape:
    """Sizes and kinds of a model; chunk: the longest text that it sees at once, in tokens."""

    vocabulary: int
    chunk: int = 128
    layers: int = 6
    heads: int = 8
    width: int = 512
    feed_forward: int = 2048
    norm: str = "post"
    attention: str = "dot"
    dropout: float = 0.1
    placement: str = "macro"
    error_at: str = "logits"

    @property
    def error_width(self) -> int:
        return self.vocabulary if self.error_at == "logits" else self.width

    @property
    def points(self) -> list[int]:
        """Widths of the feedback points; where the error is taken there is none."""
        inner = [self.width, self.feed_forward] if self.placement == "micro" else []
        points = self.layers * [*inner, self.width]
        return points if self.error_at == "logits" else points[:-1]


class Block(nn.Module):
    """Attention and a feed-forward part, each with a residual path and a normalisation."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.pre, self.micro, self.rate = shape.norm == "pre", shape.placement == "micro", shape.dropout
        self.attention = ATTENTIONS[shape.attention](shape.width, shape.heads, shape.chunk, shape.dropout)
        self.norm1, self.norm2 = nn.LayerNorm(shape.width), nn.LayerNorm(shape.width)
        self.wide = nn.Linear(shape.width, shape.feed_forward)
        self.narrow = nn.Linear(shape.feed_forward, shape.width)

    def forward(self, x: Float[Tensor, "batch length width"], tape: Tape) -> Float[Tensor, "batch length width"]:
        """The point behind the whole block is not here: the network knows what follows."""
        inner = tape if self.micro else Tape()
        if self.pre:
            x = inner.hidden(x + self.dropped(self.attention(self.norm1(x))))
            return x + self.feed_forward(self.norm2(x), inner)
        x = inner.hidden(self.norm1(x + self.dropped(self.attention(x))))
        return self.norm2(x + self.feed_forward(x, inner))

    def feed_forward(self, x: Tensor, tape: Tape) -> Tensor:
        z = self.wide(x)
        # Behind dropout: a unit that had no part in the output gets no signal.
        h = tape.hidden(self.dropped(F.relu(z))) if self.training and self.rate else tape.relu_(z)
        return self.dropped(self.narrow(h))

    def dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.rate, self.training) if self.rate else x


class Transformer(nn.Module):
    """rule: one of RULES, with options of its own, or one that is made."""

    def __init__(self, shape: Shape, rule: str | Rule, **options: Any) -> None:
        super().__init__()
        if isinstance(rule, str) and rule not in RULES:
            raise ValueError(f"unknown learning rule '{rule}'; there are {', '.join(RULES)}")
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocabulary, shape.width)
        self.register_buffer("positions", sinusoids(shape.chunk, shape.width), persistent=False)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.width) if shape.norm == "pre" else nn.Identity()
        self.decoder = nn.Linear(shape.width, shape.vocabulary)
        nn.init.normal_(self.embedding.weight, std=shape.width**-0.5)
        nn.init.normal_(self.decoder.weight, std=0.02)
        nn.init.zeros_(self.decoder.bias)
        made = rule if isinstance(rule, Rule) else make_rule(rule, shape.error_width, shape.points, **options)
        self.rule = made.prepare(self)

    def network(self) -> list[nn.Parameter]:
        """All parameters but those of the feedback."""
        feedback = {id(p) for p in self.rule.parameters()}
        return [p for p in self.parameters() if id(p) not in feedback]

    def forward(self, tokens: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length vocabulary"]:
        """Logits of the token after each; at most `chunk` of them."""
        tape, shape = self.rule.tape(), self.shape
        x = self.embedding(tokens) * shape.width**0.5 + self.positions[: tokens.shape[1]]
        x = F.dropout(x, shape.dropout, self.training) if shape.dropout else x
        for number, block in enumerate(self.blocks, 1):
            x = block(x, tape)
            if number < shape.layers or shape.error_at == "logits":
                x = tape.hidden(x)
        x = self.norm(x)
        if shape.error_at == "logits":
            return tape.output(self.decoder(x))
        return self.decoder(tape.output(x))


def sinusoids(length: int, width: int) -> Float[Tensor, "length width"]:
    """sin(p / 10000^(2i / width)) in the even, cos of the same in the odd components; width is even."""
    rates = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = torch.arange(length, dtype=torch.float64)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1).float()
