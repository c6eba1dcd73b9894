"""What the trainer knows of a task: batches, a loss, an evaluation."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn


@runtime_checkable
class Task(Protocol):
    """A learning problem. Everything random comes from the generator, which the trainer keeps and saves."""

    def batch(self, step: int, generator: torch.Generator) -> Any:
        """The training batch of this step (counted from 1), on the device."""

    def loss(self, model: nn.Module, batch: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar to minimise, and scalars to show (no gradient; they may stay on the device)."""

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Named numbers that say how good the model is, on data that it was not trained on."""
