"""What a token of a chunk takes from those before it: scaled dot products, synthesizers and fixed patterns.

All are causal: position i reads positions 0 to i. x is (batch, length, width), of at most `chunk` positions.

| kind     | weights of position i over j <= i                             | source                              |
|----------|---------------------------------------------------------------|-------------------------------------|
| `dot`    | softmax of q_i k_j / sqrt(width of a head)                    | Vaswani et al. 2017                 |
| `dense`  | softmax of relu(a_i) r_j, a_i of the token, r_j learned for j | Tay et al. 2020, dense synthesizer  |
| `random` | softmax of R_ij, learned: the same for all texts              | Tay et al. 2020, random synthesizer |
| `fixed`  | not learned: the heads' patterns below                        | Raganato et al. 2020                |
"""

from __future__ import annotations

import math

import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class Attention(nn.Module):
    """Base: values of every head, taken from earlier positions by weights that a subclass makes, and mixed.

    inputs: how many further projections of x besides the values the subclass reads.
    """

    inputs = 0

    def __init__(self, width: int, heads: int, chunk: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.project = nn.Linear(width, (self.inputs + 1) * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "batch length width"]) -> Float[Tensor, "batch length width"]:
        parts = self.project(x).unflatten(-1, (self.inputs + 1, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out(self.gather(*parts).transpose(1, 2).flatten(2))

    def gather(self, *parts: Tensor) -> Tensor:
        """Projections (batch, heads, length, width of a head), the values last, to the weighted values."""
        raise NotImplementedError

    def rate(self) -> float:
        """Of dropout now."""
        return self.dropout if self.training else 0.0


class DotProduct(Attention):
    """Queries and keys of the tokens."""

    inputs = 2

    def gather(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend(q, k, v, q.shape[-1] ** -0.5, self.rate())


class DenseSynthesizer(Attention):
    """Logits over positions from the token alone, by a layer of ReLUs: attention whose keys belong to positions."""

    inputs = 1

    def __init__(self, width: int, heads: int, chunk: int, dropout: float) -> None:
        super().__init__(width, heads, chunk, dropout)
        self.keys = nn.Parameter(torch.randn(heads, chunk, width // heads) * (width // heads) ** -0.5)

    def gather(self, a: Tensor, v: Tensor) -> Tensor:
        keys = self.keys[:, : a.shape[2]].expand(len(a), -1, -1, -1)
        return attend(F.relu(a), keys, v, 1.0, self.rate())


class RandomSynthesizer(Attention):
    """Logits that are parameters."""

    def __init__(self, width: int, heads: int, chunk: int, dropout: float) -> None:
        super().__init__(width, heads, chunk, dropout)
        self.logits = nn.Parameter(torch.randn(heads, chunk, chunk))

    def gather(self, v: Tensor) -> Tensor:
        length = v.shape[2]
        weights = causal_softmax(self.logits[:, :length, :length])
        return F.dropout(weights, self.rate()) @ v


class FixedPatterns(Attention):
    """Weights that never change: the heads take turns with the patterns of `fixed_patterns`."""

    def __init__(self, width: int, heads: int, chunk: int, dropout: float) -> None:
        super().__init__(width, heads, chunk, dropout)
        patterns = fixed_patterns(chunk)
        self.register_buffer("patterns", patterns[torch.arange(heads) % len(patterns)], persistent=False)

    def gather(self, v: Tensor) -> Tensor:
        length = v.shape[2]
        return F.dropout(self.patterns[:, :length, :length], self.rate()) @ v


ATTENTIONS: dict[str, type[Attention]] = {
    "dot": DotProduct,
    "dense": DenseSynthesizer,
    "random": RandomSynthesizer,
    "fixed": FixedPatterns,
}


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, dropout: float) -> Float[Tensor, "batch heads length d"]:
    """softmax(scale q k^T) v over earlier positions, by torch's fused kernel where it has the derivative asked for."""
    if forward_ad.unpack_dual(v).tangent is None:
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True, scale=scale)
    return F.dropout(causal_softmax(scale * q @ k.transpose(-2, -1)), dropout) @ v


def causal_softmax(logits: Float[Tensor, "*heads length length"]) -> Float[Tensor, "*heads length length"]:
    """Softmax of each row over the columns up to its own."""
    later = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).triu(1)
    return logits.masked_fill(later, -math.inf).softmax(-1)


def fixed_patterns(length: int) -> Float[Tensor, "4 length length"]:
    """Raganato et al.'s patterns that need no later token; every row sums to 1.

    The token itself; the one before it; all up to it, the nearer the more (cubes of 1, 2, ...); the same, the nearer
    to the start the more.
    """
    ages = torch.arange(length)[:, None] - torch.arange(length)
    nearer = torch.arange(1, length + 1).expand(length, length)
    before = ages == 1
    before[0, 0] = True  # there is none before the first
    weights = torch.stack([ages == 0, before, nearer**3, (ages + 1) ** 3]).double()
    weights = weights * (ages >= 0)
    return (weights / weights.sum(-1, keepdim=True)).float()
