"""Optimisers, learning rates over the steps, and clipping."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from nerf_dfa.training.schedules import Schedule

OPTIMIZERS = ("adam", "radam")
SCHEDULES = ("constant", "warmup", "plateau")


def make_optimizer(
    kind: str, groups: Sequence[dict[str, Any]], beta2: float, clip: float, clipped: Sequence[nn.Parameter]
) -> torch.optim.Optimizer:
    """Adam, or RAdam (Liu et al. 2020), whose steps are preceded by clipping. The rate is set at every step.

    groups: of parameters, as torch.optim takes them. clip: largest norm of the gradients of all `clipped` together;
    0 leaves them.
    """
    betas = (0.9, beta2)
    if kind == "adam":
        optimizer: torch.optim.Optimizer = torch.optim.Adam(groups, betas=betas, fused=True)
    else:
        optimizer = torch.optim.RAdam(groups, betas=betas, foreach=True)
    if clip:
        optimizer.register_step_pre_hook(lambda *_: nn.utils.clip_grad_norm_(clipped, clip) and None)
    return optimizer


def warmup(factor: float, width: int, steps: int) -> Schedule:
    """Equation 3 of Vaswani et al. 2017: linear for `steps`, then as step^-1/2; factor * (width * steps)^-1/2 at most.

    factor * width^-1/2 * min(step^-1/2, step * steps^-3/2), where the first step is number 1.
    """
    return lambda finished: factor * width**-0.5 * min((finished + 1) ** -0.5, (finished + 1) * steps**-1.5)


class Plateau:
    """A rate that is multiplied by `factor` each time that a score was not the best more than `patience` times on end.

    A Schedule that has to be shown the scores (the smaller the better), and that has a state.
    """

    def __init__(self, rate: float, factor: float = 0.2, patience: int = 1) -> None:
        self.rate, self.factor, self.patience = rate, factor, patience
        self.best, self.bad = math.inf, 0

    def __call__(self, finished: int) -> float:
        return self.rate

    def observe(self, score: float) -> None:
        self.bad = 0 if score < self.best else self.bad + 1
        self.best = min(self.best, score)
        if self.bad > self.patience:
            self.rate *= self.factor
            self.bad = 0

    def state(self) -> dict[str, Any]:
        return {"rate": self.rate, "best": self.best, "bad": self.bad}

    def load(self, state: dict[str, Any]) -> None:
        self.rate, self.best, self.bad = state["rate"], state["best"], state["bad"]
