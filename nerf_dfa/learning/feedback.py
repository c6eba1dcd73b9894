"""Feedback: what turns the error at the output into one signal for each hidden layer.

Notation: rows are samples, c is the width of the error e = dL/dy, l_i the width of hidden layer i. A feedback is a
module of the network: its matrices are buffers, or parameters where they learn by gradient, and so they are saved,
moved and copied to other processes with the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

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
    """Base of all feedback. A subclass gives `project`, and `learned` and `gradients` where it learns by gradient.

    error_width: c. message_width: width of what is sent to every layer. conditional: it depends on the network's
    output. reach: which outputs each hidden layer leads to (None: all); a layer's signal is made of their errors alone.
    Without any, every layer leads to all outputs.
    """

    def __init__(self, error_width: int, message_width: int | None = None) -> None:
        super().__init__()
        self.error_width = error_width
        self.message_width = error_width if message_width is None else message_width
        self.conditional = False
        self.reach: Sequence[slice | None] = ()

    def heard(self, layer: int) -> tuple[int, int]:
        """The outputs that the layer leads to: the first, and the one after the last."""
        reach = self.reach[layer] if self.reach else None
        return (0, self.error_width) if reach is None else reach.indices(self.error_width)[:2]

    def message_to(self, layers: Iterable[int], error: Tensor, output: Tensor | None = None) -> list[Tensor]:
        """The messages (..., message_width) of several layers, made of the error (..., c), and of the output (..., c).

        It is one and the same tensor for all layers that lead to the same outputs.
        """
        messages: dict[tuple[int, int], Tensor] = {}
        for first, end in map(self.heard, layers):
            if (first, end) not in messages:
                own = error
                if (first, end) != (0, error.shape[-1]):
                    own = torch.zeros_like(error)
                    own[..., first:end] = error[..., first:end]
                messages[first, end] = self.message(self.given(own, output))
        return [messages[self.heard(layer)] for layer in layers]

    def given(self, error: Tensor, output: Tensor | None) -> Tensor:
        """The error (..., c); conditional feedback makes (..., message_width) of it and the output (..., c)."""
        return error

    def message(self, error: Tensor) -> Tensor:
        """What all layers get (..., message_width): the error (..., c), or what their signals have in common."""
        return error

    def project(self, message: Tensor, layer: int, width: int) -> Tensor:
        """Signal (..., width) of hidden layer number `layer`."""
        raise NotImplementedError

    def learned(self, layer: int) -> tuple[nn.Parameter, ...]:
        """The feedback's own parameters that the layer gives gradients to."""
        return ()

    def gradients(self, message: Tensor, layer: int, h: Tensor) -> tuple[Tensor, ...]:
        """These gradients, in the order of `learned`; h: the layer's activations (..., width)."""
        return ()


class SharedFeedback(Feedback):
    """One projection for all layers, sliced to each one's width (Launay et al. 2019, section 4).

        signal_i = scale_i * e @ B[:, :l_i]

    Memory: c * max(l_i) numbers, whatever the depth; and the product, the message, is computed once for all layers.
    """

    def __init__(self, projection: Projection, normalisation: str = "layer") -> None:
        super().__init__(projection.error_width, projection.max_width)
        self.projection = projection
        self.normalisation = _known(normalisation)

    def _scale(self, width: int) -> float:
        return NORMALISATIONS[self.normalisation](width, self.message_width, self.error_width)

    def message(self, error: Tensor) -> Tensor:
        return _scaled(self.projection, error, self._scale(self.message_width), self.message_width)

    def project(self, message: Tensor, layer: int, width: int) -> Tensor:
        check_width(layer, width, self.message_width)
        if width == self.message_width:
            return message
        return message[..., :width] * (self._scale(width) / self._scale(self.message_width))


class TargetFeedback(SharedFeedback):
    """Direct random target projection: the targets stand in for the error, S_i = -t B_i / rows.

    For classification with targets (..., c) in [0, 1]: the error y - t has the sign of -t where outputs lie in [0, 1].
    Elsewhere -t / rows is a stand-in for the error that is known without the output (a radiance field's: nerf/task.py).
    Set `targets` before `backward`.
    """

    targets: Tensor | None = None

    def message(self, error: Tensor) -> Tensor:
        if self.targets is None or self.targets.shape != error.shape:
            found = "none" if self.targets is None else f"shape {tuple(self.targets.shape)}"
            raise ValueError(f"drtp needs rule.feedback.targets of shape {tuple(error.shape)} before backward: {found}")
        rows = error.numel() // error.shape[-1]
        return super().message(self.targets.to(error) / -rows)


class IndependentFeedback(Feedback):
    """A projection of its own for every layer (Nøkland 2016). Memory: c * sum(l_i) numbers."""

    def __init__(self, projections: Sequence[Projection], normalisation: str = "layer") -> None:
        super().__init__(projections[0].error_width)
        self.projections = nn.ModuleList(projections)
        self._widest = max(projection.max_width for projection in projections)
        self.normalisation = _known(normalisation)

    def project(self, message: Tensor, layer: int, width: int) -> Tensor:
        projection = of_layer(self.projections, layer)
        check_width(layer, width, projection.max_width)
        scale = NORMALISATIONS[self.normalisation](width, self._widest, projection.error_width)
        return _scaled(projection, message, scale, width)


class LearnedFeedback(Feedback):
    """Direct Kolen-Pollack (dkp): a matrix for every layer, that learns by the rule of the layer that it stands for.

        signal_i = e @ B_i,   dB_i = e^T h_i

    That is the gradient of an output layer reading h_i; with the same weight decay on weights and feedback the two
    come to agree. Memory: c * sum(l_i) parameters.
    """

    def __init__(self, error_width: int, widths: Sequence[int]) -> None:
        super().__init__(error_width)
        self.matrices = nn.ParameterList((torch.rand(error_width, width) * 2 - 1) * width**-0.5 for width in widths)

    def project(self, message: Tensor, layer: int, width: int) -> Tensor:
        (matrix,) = self.learned(layer)
        check_width(layer, width, matrix.shape[1])
        return message @ matrix.detach().to(message.dtype)

    def learned(self, layer: int) -> tuple[nn.Parameter, ...]:
        return (of_layer(self.matrices, layer),)

    def gradients(self, message: Tensor, layer: int, h: Tensor) -> tuple[Tensor, ...]:
        rows = message.reshape(-1, message.shape[-1])
        return ((rows.T @ h.detach().reshape(-1, h.shape[-1])).to(self.matrices[layer].dtype),)


def _scaled(projection: Projection, error: Tensor, scale: float, width: int) -> Tensor:
    """scale * e @ B[:, :width]: what is narrower, the error or the signal, is scaled."""
    if scale == 1:
        return projection(error, width)
    if error.shape[-1] <= width:
        return projection(error * scale, width)
    return projection(error, width) * scale


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
