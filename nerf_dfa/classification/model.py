"""A fully connected classifier whose activation, normalisation, dropout and learning rule are switches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from nerf_dfa.learning import make_rule

# leaky-0.5 and abs: the 2019 paper's best activations; selu: Klambauer et al. 2017.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "leaky": lambda a: F.leaky_relu(a, 0.01),
    "leaky-0.5": lambda a: F.leaky_relu(a, -0.5),
    "tanh": torch.tanh,
    "sin": torch.sin,
    "silu": F.silu,
    "gelu": F.gelu,
    "abs": torch.abs,
    "selu": F.selu,
    "sigmoid": torch.sigmoid,
    "identity": lambda a: a,
}
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "none": lambda width: nn.Identity(),
    "batch": nn.BatchNorm1d,
    "layer": nn.LayerNorm,
}


class Classifier(nn.Module):
    """`depth` blocks of linear, norm, activation, dropout, feedback point; then a linear layer to the logits.

    The feedback point comes last in its block, so that the signal S passes the derivatives of dropout and activation.
    Weights start as nn.Linear draws them. rule_options: see `make_rule`.
    Raises ValueError for an unknown activation, norm or rule.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        classes: int,
        activation: str = "tanh",
        rule: str = "dfa",
        dropout: float = 0.0,
        norm: str = "none",
        rule_options: dict[str, Any] | None = None,
        pixels: int = 64,
    ) -> None:
        super().__init__()
        for value, known, what in ((activation, ACTIVATIONS, "activation"), (norm, NORMS, "norm")):
            if value not in known:
                raise ValueError(f"unknown {what} '{value}'; there are {', '.join(known)}")
        self.activation = ACTIVATIONS[activation]
        self.layers = nn.ModuleList(nn.Linear(width if i else pixels, width) for i in range(depth))
        self.norms = nn.ModuleList(NORMS[norm](width) for _ in range(depth))
        self.dropout = dropout
        self.head = nn.Linear(width, classes)
        self.rule = make_rule(rule, classes, [width] * depth, **(rule_options or {})).prepare(self)

    def forward(self, x: Float[Tensor, "n pixels"]) -> Float[Tensor, "n classes"]:
        tape = self.rule.tape()
        for layer, norm in zip(self.layers, self.norms, strict=True):
            h = self.activation(norm(layer(x)))
            x = tape.hidden(F.dropout(h, self.dropout, self.training))
        return tape.output(self.head(x))


def free_rows(layer: nn.Linear, free: int, generator: torch.Generator) -> Bool[Tensor, " out"]:
    """Lets only `free` randomly chosen neurons of a layer learn; returns which.

    The gradients of the others' weights and biases are zeroed at every backward pass, as if their signals were: they
    stay random features. What the layer sends down under bp is left alone.
    Raises ValueError for a number that the layer does not have.
    """
    if not 0 <= free <= layer.out_features:
        raise ValueError(f"free = {free}: the layer has {layer.out_features} neurons")
    chosen = torch.zeros(layer.out_features, dtype=torch.bool)
    chosen[torch.randperm(layer.out_features, generator=generator)[:free]] = True
    layer.weight.register_hook(lambda gradient: gradient * chosen[:, None].to(gradient))
    layer.bias.register_hook(lambda gradient: gradient * chosen.to(gradient))
    return chosen
