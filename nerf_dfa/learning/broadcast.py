"""The autograd nodes of direct feedback alignment.

    token_i = feedback_point(feedback, i, h_i)          at each hidden layer
    y = broadcast(feedback, y, [token_1, ..., token_n])  at the output

Forward, a token is a view of a single zero, and the broadcast the identity on the network's output y. Backward, the
broadcast receives the error e = dL/dy and hands

    y         the error e itself, so that the top layer has its exact gradient,
    token_i   the feedback's message: e, or what all layers share of its projection,

and each feedback point makes of the message its layer's signal, for a matrix e @ B_i, in place of the gradient
dL/dh_i; where the feedback learns, its parameters' gradients too. Autograd runs nodes in the reverse order of their
making, so that a signal is made when its layer is due, and one at a time is in memory.

The network passes h_i.detach() on to its next layer. The input of every layer is then a leaf that needs no gradient,
and autograd never computes the product delta @ W that backpropagation needs: of the three matrix products of a layer
(forward, dX, dW) two remain. Nothing but `loss.backward()` is needed of a user.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nerf_dfa.learning.feedback import Feedback

Observer = Callable[[Tensor], None]


class FeedbackPoint(torch.autograd.Function):
    """A zero for every number of the message, whose backward turns the message into the layer's signal.

    With `relu` the layer's h = relu(z) lies in the memory of z, and the signal goes on to z: it is zero where h is.
    """

    @staticmethod
    def forward(ctx, feedback: Feedback, layer: int, relu: bool, h: Tensor, *learned: Tensor) -> Tensor:
        ctx.feedback, ctx.layer, ctx.relu, ctx.width = feedback, layer, relu, h.shape[-1]
        ctx.learns = bool(learned)
        if relu or learned:  # the gradient of what is learned needs the activations too
            ctx.save_for_backward(h)
        return h.new_zeros(()).expand(*h.shape[:-1], feedback.message_width)

    @staticmethod
    def backward(ctx, message: Tensor) -> tuple[Tensor | None, ...]:
        signal = ctx.feedback.project(message, ctx.layer, ctx.width)
        learned = ctx.feedback.gradients(message, ctx.layer, *ctx.saved_tensors) if ctx.learns else ()
        if ctx.relu:
            shared = signal is message or signal._base is not None
            signal = passed_by_relu(signal, *ctx.saved_tensors, in_place=not shared)
        return (None, None, None, signal, *learned)


class Broadcast(torch.autograd.Function):
    """Identity whose backward sends the message of the error to every feedback point."""

    @staticmethod
    def forward(ctx, feedback: Feedback, observe: Observer | None, y: Tensor, *tokens: Tensor) -> Tensor:
        ctx.feedback, ctx.observe = feedback, observe
        ctx.dtypes = tuple(token.dtype for token in tokens)
        if feedback.conditional:
            ctx.save_for_backward(y)
        return y.view_as(y)

    @staticmethod
    def backward(ctx, error: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.observe is not None:
            ctx.observe(error)
        layers = range(len(ctx.dtypes))
        messages = {d: ctx.feedback.message_to(layers, error.to(d), *ctx.saved_tensors) for d in set(ctx.dtypes)}
        return (None, None, error, *(messages[dtype][layer] for layer, dtype in enumerate(ctx.dtypes)))


def passed_by_relu(signal: Tensor, h: Tensor, in_place: bool = False) -> Tensor:
    """The signal where h = relu(z) is positive, zero elsewhere."""
    if in_place:
        return torch.ops.aten.threshold_backward.grad_input(signal, h, 0, grad_input=signal)
    return torch.ops.aten.threshold_backward(signal, h, 0)


def feedback_point(feedback: Feedback, layer: int, h: Tensor, relu: bool = False) -> Tensor:
    """The token of hidden layer number `layer`, with activations h (..., width); broadcast takes it.

    relu: h is a pre-activation on which a ReLU has worked in place without autograd's knowledge; it comes in here.
    """
    return FeedbackPoint.apply(feedback, layer, relu, h, *feedback.learned(layer))


def broadcast(feedback: Feedback, y: Tensor, tokens: Sequence[Tensor], observe: Observer | None = None) -> Tensor:
    """y, joined to the feedback points so that `backward` gives each hidden layer its signal.

    y: (..., c), the network's output; tokens: of hidden layers with the same leading dimensions; observe: is shown
    the error first, for feedback that follows what a pass finds out.
    """
    return Broadcast.apply(feedback, observe, y, *tokens)
