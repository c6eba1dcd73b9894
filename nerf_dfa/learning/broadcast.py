"""The one autograd node of direct feedback alignment.

    y = Broadcast.apply(feedback, n, y, h_1, ..., h_n, p_1, ..., p_m)

Forward it is the identity on the network's output y. Backward it receives the error e = dL/dy and hands

    y    the error e itself, so that the top layer has its exact gradient,
    h_i  the feedback signal, for a matrix e @ B_i, in place of the gradient dL/dh_i,
    p_j  the gradient of the feedback's own parameters, where the feedback learns.

The network passes h_i.detach() on to its next layer. The input of every layer is then a leaf that needs no
gradient, and autograd never computes the product delta @ W that backpropagation needs: of the three matrix
products of a layer (forward, dX, dW) two remain. Nothing but `loss.backward()` is needed of a user.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nerf_dfa.learning.feedback import Feedback


class Broadcast(torch.autograd.Function):
    """Identity whose backward sends the error at the output to every hidden layer at once."""

    @staticmethod
    def forward(ctx, feedback: Feedback, n: int, y: Tensor, *rest: Tensor) -> Tensor:
        hidden = rest[:n]
        ctx.feedback, ctx.n = feedback, n
        ctx.widths = tuple(h.shape[-1] for h in hidden)
        ctx.dtypes = tuple(h.dtype for h in hidden)
        if len(rest) > n:  # the feedback learns, and its gradient needs the activations (kept by the ReLUs anyway)
            ctx.save_for_backward(*hidden)
        return y.view_as(y)

    @staticmethod
    def backward(ctx, error: Tensor) -> tuple[Tensor | None, ...]:
        signals = ctx.feedback.signals(error, ctx.widths, ctx.dtypes)
        learned = ctx.feedback.gradients(error, ctx.saved_tensors) if ctx.saved_tensors else ()
        return (None, None, error, *signals, *learned)


def broadcast(feedback: Feedback, y: Tensor, hidden: Sequence[Tensor]) -> Tensor:
    """y, joined to the hidden activations so that `backward` gives each of them its feedback signal.

    y: (..., c), the network's output; hidden: tensors (..., width_i) with the same leading dimensions.
    """
    return Broadcast.apply(feedback, len(hidden), y, *hidden, *feedback.parameters())
