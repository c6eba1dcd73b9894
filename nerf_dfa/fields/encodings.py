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
    scales = 2.0 ** torch.arange(frequencies, dtype=x.dtype, device=x.device)
    angles = x[..., None, :] * scales[:, None]  # (..., L, d)
    waves = torch.stack([angles.sin(), angles.cos()], dim=-2)  # (..., L, 2, d)
    return torch.cat([x, waves.flatten(start_dim=-3)], dim=-1)


def encoded_width(d: int, frequencies: int) -> int:
    """Width of `positional_encoding` of d coordinates."""
    return d * (1 + 2 * frequencies)
