"""Which device a run uses."""

from __future__ import annotations

import torch

from nerf_dfa.errors import UserError


def choose_device(name: str) -> torch.device:
    """`auto` takes the GPU where there is one; `cuda` without one is a UserError."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: this torch sees no CUDA GPU; use --device cpu, or auto")
    return torch.device(name)
