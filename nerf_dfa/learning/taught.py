"""Direct feedback that is taught by mirrors (mdfa): B_i is what explains best the signals that they send back.

Some of the passes are lessons. In a lesson nothing is cut, and every nn.Linear sends its error back through a matrix R
that mirrors its weights (kp_mirror of sequential.py: R learns from what the layer answers to noise and by the weights'
own updates, and no weight is transported; layers of other kinds send theirs as ever). The network learns by such a pass
as by any other; and what arrives at feedback point i, S_i (rows, l_i), is what its matrix should have made of the error
e (rows, c). In all other passes it does:

    B_i = argmin_B sum_t (1 - b)^(T - t) |S_ti - e_t B|^2 / |e_t|^2

over the lessons t up to the last one, T: linear least squares, as Lansdell et al. (2020) fit feedback to gradients that
they estimate by perturbing nodes, and Jaderberg et al. (2017) predict theirs. Unlike a mean Jacobian (probing.py) it
counts rows by the square of their error, and how errors at different outputs go together. A lesson takes a step of
backpropagation; the moments take c^2 + c * sum(l_i) numbers, and R as many as the weights, and their moments.

The gradient is not linear in the error alone: the Jacobian is another one wherever other units are active. With
`conditional` feedback every layer hears the output y beside its error, and what is fitted depends on it,

    B_i(y) = B_i0 + sum_j sigmoid(y_j) B_ij

which is a message e' = e x (1, sigmoid(y)) in place of e, of c (c + 1) numbers, everywhere above.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from nerf_dfa.learning.estimated import EstimatedFeedback
from nerf_dfa.learning.tapes import Record, check_point

# Added to the correlations of the error's columns: of those that always err alike none is singled out.
RIDGE = 1e-4
# From this width of the message on the least squares would take longer than the network.
WIDEST_MESSAGE = 1024


class TaughtFeedback(EstimatedFeedback):
    """A matrix for every layer, fitted to the signals that came back in lessons; `average` is b."""

    def __init__(
        self,
        error_width: int,
        widths: Sequence[int],
        every: int = 10,
        average: float = 0.3,
        conditional: bool = False,
        **when,
    ) -> None:
        terms = 1 + error_width if conditional else 1  # of B(y)
        message = error_width * terms
        if message > WIDEST_MESSAGE:
            most = math.isqrt(WIDEST_MESSAGE) - 1 if conditional else WIDEST_MESSAGE
            raise ValueError(f"mdfa fits feedback for at most {most} outputs, and there are {error_width}")
        super().__init__(error_width, widths, every, average, message_width=message, **when)
        self.conditional, self.terms = conditional, terms
        self.register_buffer("moments", torch.zeros(message, message))
        for layer, width in enumerate(widths):
            self.register_buffer(f"product_{layer}", torch.zeros(message, width))

    def given(self, error: Tensor, output: Tensor | None) -> Tensor:
        if not self.conditional:
            return error
        given = torch.cat([torch.ones_like(output[..., :1]), torch.sigmoid(output)], dim=-1).to(error.dtype)
        return (error[..., :, None] * given[..., None, :]).flatten(-2)

    @torch.no_grad()
    def hear(self, error: Tensor, output: Tensor | None = None) -> tuple[Tensor, float]:
        """Takes note of a lesson's error (..., c), and the output (..., c) where the feedback depends on it.

        Returns e / |e|^2 (rows, message_width), e being the message, and the weight of the lesson.
        """
        weight = self.largest_step()
        with torch.autocast(error.device.type, enabled=False):
            rows = self.given(error, output).reshape(-1, self.message_width).to(self.moments.dtype)
            scaled = rows / rows.square().sum().clamp(min=1e-30)
            self.moments.lerp_(rows.T @ scaled, weight)
        return scaled, weight

    @torch.no_grad()
    def learn(self, layer: int, scaled: Tensor, weight: float, signal: Tensor) -> None:
        """Fits the layer's matrix to the signal (..., l_i) of the lesson whose error `hear` was shown."""
        product = getattr(self, f"product_{layer}")
        first, end = (number * self.terms for number in self.heard(layer))
        with torch.autocast(signal.device.type, enabled=False):
            product.lerp_(scaled.T @ signal.reshape(-1, signal.shape[-1]).to(scaled.dtype), weight)
            moments = self.moments[first:end, first:end].double()
            size = moments.diagonal().clamp(min=1e-30).rsqrt()[:, None]
            correlations = size * moments * size.T
            correlations.diagonal().add_(RIDGE)
            fitted = size * torch.linalg.solve_ex(correlations, size * product[first:end])[0]
        matrix = self.matrices[layer].zero_()
        matrix[first:end] = fitted.to(matrix.dtype)


class Lesson(Record):
    """A pass with the gradients that the layers themselves give, in which the feedback looks on."""

    feedback: TaughtFeedback
    _heard: tuple[Tensor, float] | None = None  # None: no error came to the output, of no row or of none in the loss

    def hidden(self, h: Tensor) -> Tensor:
        check_point(h, len(self._tokens), self._closed)
        h = h.view_as(h)  # of what comes back it is the part that this point's layer sent on
        if h.requires_grad:
            h.register_hook(partial(self._learn, len(self._tokens)))
        self._tokens.append(h)
        return h

    def relu_(self, z: Tensor) -> Tensor:
        return self.hidden(torch.relu(z))

    def output(self, y: Tensor) -> Tensor:
        self.close(y)
        self._tokens = []
        y = y.view_as(y)
        if y.requires_grad:
            y.register_hook(partial(self._hear, y.detach() if self.feedback.conditional else None))
        return y

    def _hear(self, output: Tensor | None, error: Tensor) -> None:
        self._heard = self.feedback.hear(error, output) if error.numel() else None

    def _learn(self, layer: int, signal: Tensor) -> None:
        if self._heard is not None:
            self.feedback.learn(layer, *self._heard, signal)
