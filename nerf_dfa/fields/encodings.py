"""Encodings of positions and directions: what a field's first layer reads."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def positional_encoding(x: Float[Tensor, "*batch d"], frequencies: int) -> Float[Tensor, "*batch encoded"]:
    """[x, sin(x), cos(x), sin(2x), cos(2x), ..., sin(2^(L-1) x), cos(2^(L-1) x)] for L frequencies.

    Width d * (1 + 2 L); each block holds all d coordinates (NeRF, equation 4, with the raw input in front and
    without the factor pi, as in the authors' code). With zero frequencies it is x itself.
    """
    if frequencies == 0:
        return x
    columns = x.reshape(-1, x.shape[-1]).T.contiguous()  # passes over threes take twice as long
    scales = 2.0 ** torch.arange(frequencies, dtype=x.dtype, device=x.device)
    angles = scales[:, None, None] * columns  # (L, d, n)
    waves = torch.stack([angles.sin(), angles.cos()], dim=1)  # (L, 2, d, n)
    return torch.cat([columns, waves.flatten(0, 2)]).T.view(*x.shape[:-1], encoded_width(x.shape[-1], frequencies))


def encoded_width(d: int, frequencies: int) -> int:
    """Width of `positional_encoding` of d coordinates."""
    return d * (1 + 2 * frequencies)
