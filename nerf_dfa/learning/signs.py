"""Random signs: the cheapest noise whose products with itself are known exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def _byte_signs(device: torch.device | str = "cpu") -> Tensor:
    """The signs (256, 8) that the bits of each byte stand for."""
    return ((torch.arange(256, device=device)[:, None] >> torch.arange(8, device=device)) & 1).float() * 2 - 1


_ON_CPU = _byte_signs()


def random_signs(shape: Sequence[int], like: Tensor) -> Tensor:
    """-1 or +1 with equal probability, in the type and place of `like`; from 64 random bits at a time."""
    count = math.prod(shape)
    words = torch.empty(-(-count // 64), dtype=torch.int64, device=like.device).random_(-(2**63), None)
    chosen = words.view(torch.uint8)[: -(-count // 8)].int()
    # Elsewhere made anew: a copy from here would make the host wait.
    signs = _ON_CPU if like.device.type == "cpu" else _byte_signs(like.device)
    return signs.to(like.dtype).index_select(0, chosen).view(-1)[:count].view(*shape)
