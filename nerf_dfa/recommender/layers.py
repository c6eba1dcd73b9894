"""What click models are made of. D is an embedding's width, F the number of fields."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nerf_dfa.learning.tapes import Tape

SMALLEST = 1e-4  # of an embedding's magnitudes before the logarithm (Cheng et al. 2020)


class FieldEmbedding(nn.Embedding):
    """One table for the values of all fields; sparse: its gradient has only the rows that a batch read."""

    def __init__(self, values: int, width: int, std: float, sparse: bool = False, mean: float = 0.0) -> None:
        super().__init__(values, width, sparse=sparse)
        nn.init.normal_(self.weight, mean, std)


class FirstOrder(nn.Module):
    """A weight for every value, and a bias: logistic regression. (rows, F) indices -> (rows, 1)."""

    def __init__(self, values: int, sparse: bool = False) -> None:
        super().__init__()
        self.weights = FieldEmbedding(values, 1, 0.0, sparse)
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, fields: Int[Tensor, "rows F"]) -> Float[Tensor, "rows 1"]:
        return self.weights(fields).sum(1) + self.bias


def pairwise(embedded: Float[Tensor, "rows F D"]) -> Float[Tensor, "rows 1"]:
    """Sum over pairs of fields of their embeddings' inner product (Rendle 2010), in linear time."""
    return 0.5 * (embedded.sum(1).square() - embedded.square().sum(1)).sum(1, keepdim=True)


class MLP(nn.Module):
    """Blocks of linear layer, norm, ReLU, dropout, and a feedback point. Batch norm makes a bias before it idle.

    norm: "batch", "layer" or "none".
    """

    def __init__(self, inputs: int, widths: Sequence[int], dropout: float = 0.0, norm: str = "batch") -> None:
        super().__init__()
        norms = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm, "none": lambda width: nn.Identity()}
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Linear(below, width, bias=norm != "batch"), norms[norm](width), nn.ReLU(), nn.Dropout(dropout)
            )
            for below, width in zip([inputs, *widths], widths, strict=False)
        )

    def forward(self, x: Float[Tensor, "rows inputs"], tape: Tape) -> Float[Tensor, "rows width"]:
        for block in self.blocks:
            x = tape.hidden(block(x))
        return x


class Cross(nn.Module):
    """A cross layer (Wang et al. 2017): x_0 (x . w) + b + x."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Linear(width, 1, bias=False)
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(
        self, first: Float[Tensor, "rows width"], x: Float[Tensor, "rows width"]
    ) -> Float[Tensor, "rows width"]:
        return first * self.weight(x) + self.bias + x


class Logarithms(nn.Module):
    """ln |x| of embeddings, with batch norm over each field's."""

    def __init__(self, fields: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(fields, affine=False)  # the powers do for its scale, the next norm for its shift

    def forward(self, embedded: Float[Tensor, "rows F D"]) -> Float[Tensor, "rows F D"]:
        return self.norm(embedded.abs().clamp_min(SMALLEST).log())


class Powers(nn.Module):
    """Logarithmic neurons (Cheng et al. 2020): from logarithms to products of powers, with powers that are learnt.

    For each component d of the embeddings y_jd = exp(sum_f w_jf l_fd), with batch norm over each neuron's.
    """

    def __init__(self, fields: int, neurons: int) -> None:
        super().__init__()
        self.powers = nn.Linear(fields, neurons, bias=False)
        self.norm = nn.BatchNorm1d(neurons)

    def forward(self, logarithms: Float[Tensor, "rows F D"]) -> Float[Tensor, "rows neurons D"]:
        return self.norm(self.powers(logarithms.transpose(1, 2)).exp().transpose(1, 2))


class Interacting(nn.Module):
    """Multi-head self-attention over fields, a linear shortcut, ReLU (Song et al. 2019). width: of all heads."""

    def __init__(self, inputs: int, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.shortcut = (nn.Linear(inputs, width, bias=False) for _ in range(4))

    def forward(self, x: Float[Tensor, "rows F inputs"]) -> Float[Tensor, "rows F width"]:
        query, key, value = (self._split(part(x)) for part in (self.query, self.key, self.value))
        weights = (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(-1)
        attended = (weights @ value).transpose(1, 2).flatten(2)  # (rows, heads, F, w) -> (rows, F, width)
        return torch.relu(attended + self.shortcut(x))

    def _split(self, x: Float[Tensor, "rows F width"]) -> Float[Tensor, "rows heads F w"]:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)
