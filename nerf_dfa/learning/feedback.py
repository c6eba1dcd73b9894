"""Feedback: what turns the error at the output into one signal for each hidden layer.

Notation: rows are samples, c is the width of the error e = dL/dy, l_i the width of hidden layer i. A feedback is a
module of the network: its matrices are buffers, or parameters where they learn by gradient, and so they are saved,
moved and copied to other processes with the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from nerf_dfa.learning.projection import Projection

# Scale of layer i's signal, from its width l, the widest layer's l_max and the width c of the error.
NORMALISATIONS: dict[str, Callable[[int, int, int], float]] = {
    "layer": lambda width, widest, c: width**-0.5,  # Launay et al. 2020, the text
    "max": lambda width, widest, c: widest**-0.5,  # Launay et al. 2020, the released code
    "full": lambda width, widest, c: (width * c) ** -0.5,  # Launay et al. 2019, equations 7 and 8
    "none": lambda width, widest, c: 1.0,
}


class Feedback(nn.Module):
    """Base of all feedback. A subclass gives `project`, and `gradients` where it has parameters that learn."""

    def project(self, error: Tensor, layer: int, width: int) -> Tensor:
        """Signal (..., width) of hidden layer number `layer` for the error (..., c)."""
        raise NotImplementedError

    def source(self, layer: int) -> object:
        """What the layer's signal is computed from: layers of equal source and width have the same signal."""
        return layer

    def signals(self, error: Tensor, widths: Sequence[int], dtypes: Sequence[torch.dtype]) -> tuple[Tensor, ...]:
        """The signal of every hidden layer; a product that several layers share is computed once."""
        done: dict[tuple, Tensor] = {}
        out = []
        for layer, (width, dtype) in enumerate(zip(widths, dtypes, strict=True)):
            key = (self.source(layer), width, dtype)
            if key not in done:
                done[key] = self.project(error.to(dtype), layer, width)
            out.append(done[key])
        return tuple(out)

    def gradients(self, error: Tensor, hidden: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Gradients of the feedback's own parameters, in the order of `parameters()`."""
        return ()


class SharedFeedback(Feedback):
    """One projection for all layers, sliced to each one's width (Launay et al. 2019, section 4).

        signal_i = scale_i * e @ B[:, :l_i]

    Memory: c * max(l_i) numbers, whatever the depth; and the product is computed once for all layers of a width.
    """

    def __init__(self, projection: Projection, normalisation: str = "layer") -> None:
        super().__init__()
        self.projection = projection
        self.normalisation = _known(normalisation)

    def source(self, layer: int) -> object:
        return None

    def project(self, error: Tensor, layer: int, width: int) -> Tensor:
        return _project(self.projection, error, layer, width, self.normalisation)


class IndependentFeedback(Feedback):
    """A projection of its own for every layer (Nøkland 2016). Memory: c * sum(l_i) numbers."""

    def __init__(self, projections: Sequence[Projection], normalisation: str = "layer") -> None:
        super().__init__()
        self.projections = nn.ModuleList(projections)
        self.normalisation = _known(normalisation)

    def project(self, error: Tensor, layer: int, width: int) -> Tensor:
        return _project(of_layer(self.projections, layer), error, layer, width, self.normalisation)


class LearnedFeedback(Feedback):
    """Direct Kolen-Pollack (dkp): a matrix for every layer, that learns by the rule of the layer that it stands for.

        signal_i = e @ B_i,   dB_i = e^T h_i

    That is the gradient of an output layer reading h_i; with the same weight decay on weights and feedback the two
    come to agree. Memory: c * sum(l_i) parameters.
    """

    def __init__(self, error_width: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.matrices = nn.ParameterList((torch.rand(error_width, width) * 2 - 1) * width**-0.5 for width in widths)

    def project(self, error: Tensor, layer: int, width: int) -> Tensor:
        matrix = of_layer(self.matrices, layer)
        check_width(layer, width, matrix.shape[1])
        return error @ matrix.detach().to(error.dtype)

    def gradients(self, error: Tensor, hidden: Sequence[Tensor]) -> tuple[Tensor, ...]:
        rows = error.reshape(-1, error.shape[-1])
        return tuple(
            (rows.to(h.dtype).T @ h.detach().reshape(-1, h.shape[-1])).to(matrix.dtype)
            for h, matrix in zip(hidden, self.matrices, strict=True)
        )


def _known(normalisation: str) -> str:
    if normalisation not in NORMALISATIONS:
        raise ValueError(f"unknown normalisation '{normalisation}'; there are {', '.join(NORMALISATIONS)}")
    return normalisation


def of_layer(items: Sequence | nn.ModuleList | nn.ParameterList, layer: int) -> Tensor | nn.Module:
    if layer >= len(items):
        raise ValueError(f"feedback point {layer}: the feedback was made for {len(items)} hidden layers")
    return items[layer]


def check_width(layer: int, width: int, widest: int) -> None:
    if width > widest:
        raise ValueError(f"feedback point {layer} is {width} wide, but its feedback was made for at most {widest}")


def _project(projection: Projection, error: Tensor, layer: int, width: int, normalisation: str) -> Tensor:
    check_width(layer, width, projection.max_width)
    scale = NORMALISATIONS[normalisation](width, projection.max_width, projection.error_width)
    # The error is narrower than the signal, so it is the error that is scaled.
    return projection(error * scale, width)
