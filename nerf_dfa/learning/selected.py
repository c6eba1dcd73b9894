"""Passes of which only the rows that err go back, under any learning rule.

    y = selected(network, kept, x)             # in place of network(x), while training

In a radiance field nearly all of the error e = dL/dy is at a few samples, those that a ray sees. This pass keeps
nothing for the way back. When its error is known, the rows with the least of it are left out, and the network learns
from a second pass, of the others alone; training in instant-ngp (Mueller et al. 2022) leaves samples out likewise. With
a share s of the rows left a step takes 1 + 3 s times a forward pass in place of 3 under backpropagation, 1 + 2 s in
place of 2 under direct feedback, and memory for their activations alone. Where most rows err, as in the first steps,
and in photographs to the end, that would be more: a network with a `Room` then has plain passes, all rows of which go
back, until the room is told by samples of their error that it pays.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from nerf_dfa.learning.room import Room

# Rows that err, as a share, up to which a second pass of theirs pays; and errors of a plain pass that are looked at.
WORTH = 0.5
LOOKS = 1024


class _Selected(torch.autograd.Function):
    """network(*inputs), whose backward is that of a second pass, of the rows that err."""

    @staticmethod
    def forward(
        ctx,
        network: Callable[..., Tensor],
        kept: float,
        room: Room | None,
        static: bool,
        joint: Tensor,
        *inputs: Tensor,
    ) -> Tensor:
        device = joint.device.type
        ctx.network, ctx.kept, ctx.room, ctx.static = network, kept, room, static
        ctx.autocast = (device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
        ctx.save_for_backward(*inputs)
        return network(*inputs)

    @staticmethod
    def backward(ctx, error: Tensor) -> tuple[None, ...]:
        rows = erring(error, ctx.kept, ctx.room if ctx.static else None)
        if ctx.room is not None and not ctx.static:
            ctx.room.know(len(rows), len(error))
        with torch.enable_grad(), torch.autocast(*ctx.autocast):
            y = ctx.network(*(x[rows] for x in ctx.saved_tensors))
        torch.autograd.backward(y, error[rows])
        return (None,) * (5 + len(ctx.saved_tensors))


def selected(
    network: Callable[..., Tensor],
    kept: float,
    *inputs: Float[Tensor, "rows _"],
    room: Room | None = None,
    static: bool = False,
) -> Float[Tensor, "rows c"]:
    """network(*inputs); `backward` adds to its parameters' `.grad` what the rows give that `erring` chooses.

    network: of rows that do not depend on each other, without random numbers; it is called twice. kept: see `erring`.
    room: remembers how many erred; where more did than it pays for, all rows go back. static: the host does not wait
    to be told how many err, but takes as many as the room says.
    Nothing flows back to the inputs, and torch.autograd.grad finds no parameter behind y, but where all rows go back.
    """
    if room is not None and room.share > WORTH:
        y = network(*inputs)
        if y.requires_grad:
            y.register_hook(partial(_look, kept, room, static))
        return y
    joint = torch.zeros((), device=inputs[0].device, requires_grad=True)  # so that the error comes here at all
    return _Selected.apply(network, kept, room, static, joint, *inputs)


def _look(kept: float, room: Room, static: bool, error: Tensor) -> None:
    """Tells the room how many rows err, by every so many-th of them."""
    part = error.detach()[:: len(error) // LOOKS | 1]  # odd: else of rays of 64 samples always the same ones
    rows = erring(part, kept, room if static else None)
    if not static and len(part):
        room.know(len(rows), len(part))


def erring(error: Float[Tensor, "rows c"], kept: float, room: Room | None = None) -> Int64[Tensor, " some"]:
    """The fewest rows that have the share `kept`, in (0, 1], of the squared error; at least one.

    Columns count alike, whatever their scale: each is divided by its mean square. 1 keeps every row that errs, but
    those that rounding in 64 bits loses. The host waits to be told how many there are; with a room it takes instead the
    rows with the largest error that there is space for, as a share of those that have any.
    """
    if not len(error):
        return torch.empty(0, dtype=torch.int64, device=error.device)
    squares = error.float().square()
    score, order = (squares / squares.mean(0).clamp(min=1e-30)).sum(1).sort(descending=True)
    reached = score.double().cumsum(0)
    count = (reached < kept * reached[-1]).sum() + 1
    if room is None:
        return order[: int(count)]
    room.note(count, (score > 0).sum())  # rows that only fill space have none, and how many they are changes
    return order[: room.rows(len(order))]
