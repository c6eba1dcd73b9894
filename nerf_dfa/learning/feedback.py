"""Feedback: the fixed random maps that carry the error at the output to the hidden layers.

Notation: rows are samples, c is the width of the error e = dL/dy, l_i the width of hidden layer i. A feedback
turns e (..., c) into one signal (..., l_i) for each hidden layer. It is a module of the network whose matrix is
a buffer: saved, moved and copied to other processes with the model.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Feedback(nn.Module):
    """Base of all feedback maps. Subclasses give `project`, and `gradients` where they learn."""

    def project(self, error: Tensor, layer: int, width: int) -> Tensor:
        """Signal (..., width) of hidden layer number `layer` for the error (..., c)."""
        raise NotImplementedError

    def shared(self, layer: int) -> object:
        """Key of the matrix that this layer reads: layers of equal key and width get the same signal."""
        return None

    def signals(self, error: Tensor, widths: Sequence[int], dtypes: Sequence[torch.dtype]) -> tuple[Tensor, ...]:
        """The signal of every hidden layer; a product that several layers share is computed once."""
        done: dict[tuple, Tensor] = {}
        out = []
        for layer, (width, dtype) in enumerate(zip(widths, dtypes, strict=True)):
            key = (self.shared(layer), width, dtype)
            if key not in done:
                done[key] = self.project(error.to(dtype), layer, width)
            out.append(done[key])
        return tuple(out)

    def gradients(self, error: Tensor, hidden: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Gradients of the feedback's own parameters, in the order of `parameters()`."""
        return ()


class DenseFeedback(Feedback):
    """One matrix B for all layers, sliced to each layer's width and normalised (the paper, section 2).

        signal_i = e @ B[:, :l_i] / sqrt(l_i),   B ~ U(-1, 1)

    Memory: c * max(l_i) numbers, whatever the depth.
    """

    def __init__(self, error_width: int, max_width: int) -> None:
        super().__init__()
        self.register_buffer("matrix", torch.rand(error_width, max_width) * 2 - 1)

    def project(self, error: Tensor, layer: int, width: int) -> Tensor:
        if width > self.matrix.shape[1]:
            raise ValueError(
                f"feedback point {layer} is {width} wide, but the feedback matrix was made for at most "
                f"{self.matrix.shape[1]}"
            )
        return error @ (self.matrix[:, :width] * width**-0.5).to(error.dtype)
