"""Linear layers that differ from nn.Linear in how derivatives pass through them, and how they get into a network."""

from __future__ import annotations

from collections.abc import Callable

import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from torch import Tensor, nn


class OtherLinear(nn.Linear):
    """An nn.Linear made from another one, with its parameters, buffers and mode, and the very same hooks.

    It carries a tangent with one product, t W^T. torch's own forward-mode derivative multiplies the layer's input by a
    zero tangent of the weight besides, and records both products for a backward pass that never comes.
    """

    def __init__(self, layer: nn.Linear) -> None:
        nn.Module.__init__(self)
        tables = {name: dict(getattr(layer, name)) for name in ("_parameters", "_buffers", "_modules")}
        self.__dict__.update(layer.__dict__ | tables)  # hooks too: old weight_norm and pruning make the weight in one

    def forward(self, x: Tensor) -> Tensor:
        primal, tangent = forward_ad.unpack_dual(x) if forward_ad._current_level >= 0 else (x, None)
        y = self.product(primal)
        return y if tangent is None else forward_ad.make_dual(y, F.linear(tangent, self.weight.detach()))

    def product(self, x: Tensor) -> Tensor:
        """x W^T + b, with the layer's own way back."""
        return F.linear(x, self.weight, self.bias)


def swap_linears(network: nn.Module, other: Callable[[nn.Linear], OtherLinear]) -> list[str]:
    """Replaces every nn.Linear inside the network, at any depth, by other(layer); the names of those replaced.

    The weights are the same objects, so that an optimiser made before still trains them. A layer that stands in several
    places is replaced by one.
    """
    swapped, made = [], {}
    for name, module in list(network.named_modules()):
        for child_name, child in list(module._modules.items()):
            if type(child) is nn.Linear:
                if child not in made:
                    made[child] = other(child)
                setattr(module, child_name, made[child])
                swapped.append(f"{name}.{child_name}".lstrip("."))
    return swapped
