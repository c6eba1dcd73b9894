"""Hybrid DFA (Han and Yoo 2020): most steps by direct feedback, some by backpropagation, each with its momentum.

With probability p a step is an exact one, otherwise a direct one; g is the gradient that the step's rule gives.

    exact:   v_bp  <- mu v_bp + g,    W <- W - lr v_bp
    direct:  v_dfa <- mu v_dfa + g,   W <- W - lr (c v_dfa + (1 - c) v_bp)

so that the directions found by backpropagation go on guiding the cheap steps in between. Networks whose gradients
differ by orders of magnitude from layer to layer, as radiance fields' do, want Adam's steps: HybridAdam has both
momenta, and a mean square for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from nerf_dfa.learning.rules import Hybrid


class HybridOptimizer(torch.optim.Optimizer):
    """SGD with two momenta for a model whose networks have the rule `hdfa`.

    The kind of the next step is drawn at the end of `step` (and when the optimiser is made), so that the loop is as
    ever: zero_grad, forward, backward, step. The generator's state is part of `state_dict`.

    lr: learning rate; probability: p; mix: c in [0, 1]; momentum: mu in [0, 1); weight_decay: added to g as decay * W;
    groups: the model's parameters, as any optimiser of torch takes them (default: all, alike).
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
        groups: Iterable[Any] | None = None,
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
        super().__init__(model.parameters() if groups is None else groups, defaults)
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


class HybridAdam(HybridOptimizer):
    """The same with Adam's steps (Kingma and Ba 2015): of each kind of step its own mean gradient and mean square.

        exact:   A_bp of g,     W <- W - lr a_bp                          a = m' / (sqrt(v') + eps)
        direct:  A_dfa of g,    W <- W - lr (c a_dfa + (1 - c) a_bp)

    A: m <- b1 m + (1 - b1) g, v <- b2 v + (1 - b2) g^2; a prime divides a mean of n gradients by 1 - b^n, and a of
    none is 0. One mean square for both would be that of the larger gradients, and the steps of the others too small: a
    radiance field lost 2 dB by it. betas: b1 and b2, in [0, 1); the rest as above.
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float,
        *args,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        **options,
    ) -> None:
        if not 0 <= betas[1] < 1 or eps <= 0:
            raise ValueError(f"betas = {betas} have to lie in [0, 1), and eps = {eps} above 0")
        super().__init__(model, lr, *args, momentum=betas[0], **options)
        for values in (self.defaults, *self.param_groups):
            values.update(square=betas[1], eps=eps)

    def _update(self, p: Tensor, group: dict[str, Any]) -> None:
        state, b1, b2 = self.state[p], group["momentum"], group["square"]
        if not state:
            state.update({name: torch.zeros_like(p) for name in ("bp", "dfa", "bp_square", "dfa_square")})
            state["steps"] = {"bp": 0, "dfa": 0}
        g = p.grad.add(p, alpha=group["weight_decay"]) if group["weight_decay"] else p.grad
        kind, steps = "bp" if self.exact else "dfa", state["steps"]
        steps[kind] += 1
        state[kind].lerp_(g, 1 - b1)
        state[f"{kind}_square"].mul_(b2).addcmul_(g, g, value=1 - b2)
        shares = {"bp": 1.0} if self.exact else {"dfa": group["mix"], "bp": 1 - group["mix"]}
        for name, share in shares.items():
            if steps[name] and share:
                scale = (state[f"{name}_square"] / (1 - b2 ** steps[name])).sqrt_().add_(group["eps"])
                p.addcdiv_(state[name], scale, value=-group["lr"] * share / (1 - b1 ** steps[name]))
