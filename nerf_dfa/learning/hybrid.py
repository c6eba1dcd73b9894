"""Hybrid DFA (Han and Yoo 2020): most steps by direct feedback, some by backpropagation, each with its momentum.

With probability p a step is an exact one, otherwise a direct one; g is the gradient that the step's rule gives.

    exact:   v_bp  <- mu v_bp + g,    W <- W - lr v_bp
    direct:  v_dfa <- mu v_dfa + g,   W <- W - lr (c v_dfa + (1 - c) v_bp)

so that the directions found by backpropagation go on guiding the cheap steps in between.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from nerf_dfa.learning.rules import Hybrid


class HybridOptimizer(torch.optim.Optimizer):
    """SGD with two momenta for a model whose networks have the rule `hdfa`.

    The kind of the next step is drawn at the end of `step` (and when the optimiser is made), so that the loop is as
    ever: zero_grad, forward, backward, step. The generator's state is part of `state_dict`.

    lr: learning rate; probability: p; mix: c in [0, 1]; momentum: mu in [0, 1); weight_decay: added to g as decay * W.
    Raises ValueError for a number outside its range or a model without the rule.
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float,
        probability: float = 0.1,
        mix: float = 0.5,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.rules = [m for m in model.modules() if isinstance(m, Hybrid)]
        if not self.rules:
            raise ValueError(f"{type(model).__name__} has no network with the learning rule hdfa")
        for name, value, top in (("probability", probability, 1), ("mix", mix, 1), ("momentum", momentum, 1 - 1e-12)):
            if not 0 <= value <= top:
                raise ValueError(f"{name} = {value} has to lie in [0, 1{']' if top == 1 else ')'}")
        if lr <= 0:
            raise ValueError(f"lr = {lr} has to be above 0")
        defaults = {"lr": lr, "mix": mix, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(model.parameters(), defaults)
        self.probability = probability
        self.generator = torch.Generator().manual_seed(seed)
        self._draw()

    @property
    def exact(self) -> bool:
        """Whether the coming step is one of backpropagation."""
        return self.rules[0].exact

    def _draw(self) -> None:
        self._set(torch.rand((), generator=self.generator).item() < self.probability)

    def _set(self, exact: bool) -> None:
        for rule in self.rules:
            rule.exact = exact

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One update by the gradients in `.grad`, which a pass of the drawn kind has left."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, group)
        self._draw()
        return loss

    def _update(self, p: Tensor, group: dict[str, Any]) -> None:
        state = self.state[p]
        if not state:
            state["bp"], state["dfa"] = torch.zeros_like(p), torch.zeros_like(p)
        g = p.grad.add(p, alpha=group["weight_decay"]) if group["weight_decay"] else p.grad
        velocity = state["bp" if self.exact else "dfa"].mul_(group["momentum"]).add_(g)
        step = velocity if self.exact else torch.lerp(state["bp"], velocity, group["mix"])
        p.sub_(step, alpha=group["lr"])

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "generator": self.generator.get_state(), "exact": self.exact}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        state = dict(state_dict)
        self.generator.set_state(state.pop("generator"))
        self._set(state.pop("exact"))
        super().load_state_dict(state)
