"""Adam for dense gradients, and for the rows alone that a sparse gradient has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class LazyAdam(torch.optim.Adam):
    """Adam in which rows of an embedding that a batch did not read stay as they are, moments included.

    It needs time for the rows of a batch, not for the whole table. For dense gradients it is Adam. clip: the largest
    norm of all gradients together, to which larger ones are scaled down; 0: none.
    """

    def __init__(self, params: Any, clip: float = 0.0, **options: Any) -> None:
        super().__init__(params, **options)
        self.clip = clip

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = None if closure is None else torch.enable_grad()(closure)()
        parameters = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        for parameter in parameters:
            if parameter.grad.is_sparse:
                parameter.grad = parameter.grad.coalesce()
        if self.clip > 0:
            _clip([p.grad for p in parameters], self.clip)
        sparse = [(p, p.grad, group) for group in self.param_groups for p in group["params"] if _is_sparse(p.grad)]
        for parameter, _, _ in sparse:
            parameter.grad = None
        super().step()
        for parameter, gradient, group in sparse:
            parameter.grad = gradient
            self._step_rows(parameter, gradient, group)
        return loss

    def _step_rows(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        step, (beta1, beta2) = float(state["step"]), group["betas"]
        rows, change = gradient.indices()[0], gradient.values()
        if group["weight_decay"]:
            change = change + group["weight_decay"] * parameter[rows]
        first = state["exp_avg"][rows].lerp_(change, 1 - beta1)
        second = state["exp_avg_sq"][rows].mul_(beta2).addcmul_(change, change, value=1 - beta2)
        state["exp_avg"][rows], state["exp_avg_sq"][rows] = first, second
        size = group["lr"] / (1 - beta1**step)
        root = (second / (1 - beta2**step)).sqrt_().add_(group["eps"])
        parameter.index_add_(0, rows, (first / root).mul_(-size))


def _is_sparse(gradient: Tensor | None) -> bool:
    return gradient is not None and gradient.is_sparse


def _clip(gradients: list[Tensor], largest: float) -> None:
    values = [g._values() if g.is_sparse else g for g in gradients]
    norm = torch.stack([v.norm() for v in values]).norm() if values else torch.zeros(())
    if norm > largest:
        for value in values:
            value.mul_(largest / norm)
