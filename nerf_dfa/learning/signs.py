"""Random signs: the cheapest noise whose products with itself are known exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_BYTE_SIGNS = ((torch.arange(256)[:, None] >> torch.arange(8)) & 1).float() * 2 - 1  # (256, 8)


def random_signs(shape: Sequence[int], like: Tensor) -> Tensor:
    """-1 or +1 with equal probability, in the type and place of `like`; from 64 random bits at a time."""
    count = math.prod(shape)
    words = torch.empty(-(-count // 64), dtype=torch.int64, device=like.device).random_(-(2**63), None)
    chosen = words.view(torch.uint8)[: -(-count // 8)].int()
    return _BYTE_SIGNS.to(like.device, like.dtype).index_select(0, chosen).view(-1)[:count].view(*shape)
