"""The sequential family: backpropagation in which other matrices than the weights carry the error back.

    S_i = delta_{i+1} R_{i+1}      with dW_i, db_i as ever

| kind        | R (out x in, as W)                     | what is known of W         | memory                      |
|-------------|----------------------------------------|----------------------------|-----------------------------|
| `fa`        | fixed, random                          | nothing                    | as the weights              |
| `usf`       | c sgn(W)                               | signs                      | none                        |
| `brsf`      | |M_t| sgn(W), M_t drawn for each batch | signs                      | none                        |
| `frsf`      | |M| sgn(W), M fixed                    | signs                      | as the weights              |
| `kp`        | learns: dR = dW                        | nothing; the same updates  | as the weights, and moments |
| `mirror`    | learns: dR = b (W v - R v) v^T         | its answers to noise v     | as the weights              |
| `kp_mirror` | learns by both                         | the answers, the updates   | as the weights, and moments |

Sizes: M, R ~ N(0, 1/in) as the weights of a layer with unit variance; c = sqrt(2 / (pi in)), the mean of |M|.
Sources: Lillicrap et al. 2016 (fa); Liao et al. 2016, Moskovitz et al. 2018 (sign-concordant rules); Kolen and
Pollack 1994, Akrout et al. 2019 (kp); Akrout et al. 2019 (mirror, there without what R explains already: its plain
average of (W v) v^T needs many times as much noise). By the updates alone R stays as far from W as it began, but for
what weight decay takes; by the answers alone it runs after a W that moves. By both it comes as near as rounding lets
it, in one or two hundred passes, and the gradients are then those of backpropagation.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nerf_dfa.learning.linears import OtherLinear, swap_linears
from nerf_dfa.learning.signs import random_signs

KINDS = ("fa", "usf", "brsf", "frsf", "kp", "mirror", "kp_mirror")
OWN = ("fa", "kp", "mirror", "kp_mirror")  # kinds with a matrix R that they keep
UPDATED = ("kp", "kp_mirror")  # whose R is a parameter, with the gradient of W
MIRRORING = ("mirror", "kp_mirror")
# What a SequentialLinear holds beside the weights.
HELD = ("back", "magnitude")
# Rows of noise that a mirroring layer looks at in each pass that learns.
MIRRORED = 64


class _Linear(torch.autograd.Function):
    """x W^T + b forward, of rows; backward sends delta R, and gives `learning` the gradient of W.

    learning: R as a parameter, where it is one. `back` is what R is in this pass; another pass may come before this
    one goes back, and move R.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, back: Tensor, learning: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight, back)
        ctx.has_bias = bias is not None
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx, delta: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, back = ctx.saved_tensors
        signal = delta @ back.to(delta.dtype) if ctx.needs_input_grad[0] else None
        gradient = None
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[4]:
            x = x.to(delta.dtype)
            # The same product; of a tall matrix with few columns MKL is up to twice as fast where these come first.
            narrow = x.shape[1] < delta.shape[1]
            gradient = ((x.T @ delta).T if narrow else delta.T @ x).to(weight.dtype)
        bias = delta.sum(0).to(weight.dtype) if ctx.has_bias and ctx.needs_input_grad[2] else None
        return signal, gradient, bias, None, gradient if ctx.needs_input_grad[4] else None


class SequentialLinear(OtherLinear):
    """nn.Linear whose backward uses another matrix, by the table above. Parameter names stay as they were."""

    def __init__(self, layer: nn.Linear, kind: str) -> None:
        super().__init__(layer)
        self.kind = kind
        self.exact = False  # True: plain backpropagation, for measuring against it
        self.apart = False  # True: its random numbers are not the network's, which are the same without it
        size = self.in_features**-0.5
        if kind in OWN:
            back = torch.randn_like(self.weight, requires_grad=False) * size
            if kind in UPDATED:
                self.back = nn.Parameter(back)
            else:
                self.register_buffer("back", back)
        elif kind == "frsf":
            self.register_buffer("magnitude", torch.randn_like(self.weight, requires_grad=False).abs() * size)

    def backward_matrix(self) -> Tensor:
        """R for this pass."""
        if self.kind in OWN:
            return self.back.detach()
        with torch.no_grad():
            sign = self.weight.sign()
            size = self.in_features**-0.5
            if self.kind == "usf":
                return sign * (size * math.sqrt(2 / math.pi))
            if self.kind == "frsf":
                return sign * self.magnitude
            return sign * torch.randn_like(sign).abs() * size

    @torch.no_grad()
    def mirror(self) -> Tensor:
        """Moves R towards W by what the layer answers to noise (rows, in), by the step that brings it nearest; R.

        Noise of random signs: (in - 1) / (rows + in - 1) of the mean square distance is left each time.
        """
        with torch.autocast(self.weight.device.type, enabled=False):
            noise = random_signs((MIRRORED, self.in_features), self.weight)
            unknown = F.linear(noise, self.weight) - F.linear(noise, self.back)
            # A new tensor: the one before may be wanted by a backward pass that is still to come.
            back = self.back.detach() + unknown.T @ noise / (MIRRORED + self.in_features - 1)
        if self.kind in UPDATED:
            self.back.data = back  # the optimiser knows the parameter
        else:
            self.back = back
        return back

    def product(self, x: Tensor) -> Tensor:
        return self._of([(x, None, self.bias)])

    def joint(self, x: Tensor, shared: Tensor) -> Tensor:
        """The layer applied to [x, shared], each by its own columns of W and R, so that neither is copied.

        shared may broadcast; a signal is made for x, and for shared only if it wants one.
        """
        n = x.shape[-1]
        return self._of([(x, slice(None, n), None), (shared, slice(n, None), self.bias)])

    def _of(self, parts: Sequence[tuple[Tensor, slice | None, Tensor | None]]) -> Tensor:
        """The sum of the products of inputs with columns of W (None: all), plus biases; R's send the signals back."""
        sends = any(x.requires_grad for x, _, _ in parts)
        if self.exact or (self.kind not in UPDATED and not sends):  # nothing goes back: R has no part in it
            products = [F.linear(x, _columns(self.weight, columns), bias) for x, columns, bias in parts]
            return functools.reduce(torch.add, products)
        mirrors = self.kind in MIRRORING and self.training and sends and torch.is_grad_enabled()
        with torch.random.fork_rng() if self.apart else nullcontext():
            back = self.mirror() if mirrors else self.backward_matrix()
        products = []
        for x, columns, bias in parts:
            weight, sent, learning = (_columns(m, columns) for m in (self.weight, back, self.back_parameter))
            # Of rows: what F.linear makes of more dimensions is a view, and no view from inside may be written over.
            y = _Linear.apply(x.reshape(-1, x.shape[-1]), weight, bias, sent, learning)
            products.append(y.view(*x.shape[:-1], self.out_features))
        return functools.reduce(torch.add, products)

    @property
    def back_parameter(self) -> Tensor | None:
        """R where it learns by updates."""
        return self.back if self.kind in UPDATED else None


def _columns(matrix: Tensor | None, columns: slice | None) -> Tensor | None:
    return matrix if matrix is None or columns is None else matrix[:, columns]


def send_back(network: nn.Module, kind: str) -> list[str]:
    """Gives every nn.Linear inside the network the backward of this kind; the names of those that it found.

    Raises ValueError for an unknown kind or a network without an nn.Linear.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown rule '{kind}'; there are {', '.join(KINDS)}")
    of_weight: dict[int, SequentialLinear] = {}

    def made(layer: nn.Linear) -> SequentialLinear:
        own = SequentialLinear(layer, kind)
        twin = of_weight.setdefault(id(layer.weight), own)
        if kind in UPDATED:  # layers with one weight have one R, which learns as the weight does: from all of them
            own.back = twin.back
        return own

    swapped = swap_linears(network, made)
    if not swapped:
        raise ValueError(f"{type(network).__name__} has no nn.Linear for '{kind}' to replace")
    return swapped
