"""Linear layers that differ from nn.Linear in how derivatives pass through them, and how they get into a network."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn


class OtherLinear(nn.Linear):
    """An nn.Linear made from another one: the same weight and bias objects, under the same names."""

    def __init__(self, layer: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias = layer.weight, layer.bias


def swap_linears(network: nn.Module, other: Callable[[nn.Linear], OtherLinear]) -> list[str]:
    """Replaces every nn.Linear inside the network, at any depth, by other(layer); the names of those replaced.

    The weights are the same objects, so that an optimiser made before still trains them.
    """
    swapped = []
    for name, module in list(network.named_modules()):
        for child_name, child in list(module.named_children()):
            if type(child) is nn.Linear:
                setattr(module, child_name, other(child))
                swapped.append(f"{name}.{child_name}".lstrip("."))
    return swapped
