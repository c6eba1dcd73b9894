"""The one autograd node of direct feedback alignment.

    y = broadcast(feedback, y, [h_1, ..., h_n])

Forward it is the identity on the network's output y. Backward it receives the error e = dL/dy and hands

    y     the error e itself, so that the top layer has its exact gradient,
    h_i   the feedback signal, for a matrix e @ B_i, in place of the gradient dL/dh_i,

and the feedback's own parameters their gradients, where it learns. The network passes h_i.detach() on to its next
layer. The input of every layer is then a leaf that needs no gradient, and autograd never computes the product
delta @ W that backpropagation needs: of the three matrix products of a layer (forward, dX, dW) two remain. Nothing
but `loss.backward()` is needed of a user.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nerf_dfa.learning.feedback import Feedback

Observer = Callable[[Tensor], None]


class Broadcast(torch.autograd.Function):
    """Identity whose backward sends the error at the output to every hidden layer at once."""

    @staticmethod
    def forward(ctx, feedback: Feedback, observe: Observer | None, n: int, y: Tensor, *rest: Tensor) -> Tensor:
        hidden = rest[:n]
        ctx.feedback, ctx.observe = feedback, observe
        ctx.widths = tuple(h.shape[-1] for h in hidden)
        ctx.dtypes = tuple(h.dtype for h in hidden)
        if len(rest) > n:  # the feedback learns, and its gradient needs the activations, which ReLUs keep anyway
            ctx.save_for_backward(*hidden)
        return y.view_as(y)

    @staticmethod
    def backward(ctx, error: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.observe is not None:
            ctx.observe(error)
        signals = ctx.feedback.signals(error, ctx.widths, ctx.dtypes)
        learned = ctx.feedback.gradients(error, ctx.saved_tensors) if ctx.saved_tensors else ()
        return (None, None, None, error, *signals, *learned)


def broadcast(feedback: Feedback, y: Tensor, hidden: Sequence[Tensor], observe: Observer | None = None) -> Tensor:
    """y, joined to the hidden activations so that `backward` gives each of them its feedback signal.

    y: (..., c), the network's output; hidden: tensors (..., width_i) with the same leading dimensions; observe: is
    shown the error first, for feedback that follows what a pass finds out.
    """
    return Broadcast.apply(feedback, observe, len(hidden), y, *hidden, *feedback.parameters())
