"""Passes of which only the rows that err go back, under any learning rule but drtp, whose targets are of all rows.

    y = selected(network, Selection(0.9999, 0.2), x)             # in place of network(x), while training

In a radiance field nearly all of the error e = dL/dy is at a few samples, those that a ray sees. This pass keeps
nothing for the way back. When its error is known, the rows with the least of it are left out, and the network learns
from a second pass, of the others alone; training in instant-ngp (Mueller et al. 2022) leaves samples out likewise.
Where most rows err, as in the first steps, and in photographs to the end, some of them are drawn, the more likely the
more they err, and speak for the others too (Horvitz and Thompson 1952; for gradients Katharopoulos and Fleuret 2018):
row n with probability p_n, and its error over p_n, whose mean over all draws is the error itself. With a share s of the
rows in the second pass a step takes 1 + 3 s times a forward pass in place of 3 under backpropagation, 1 + 2 s in
place of 2 under direct feedback, and memory for their activations alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from nerf_dfa.learning.room import Room

# Rows by which it is judged, where the host may wait, whether few enough have the error.
LOOKS = 1024
# Times that the probabilities of rows that would have more than 1 are given to the others.
SHARINGS = 5


class Selection(NamedTuple):
    """Which rows go back: the fewest that have the share `kept` of the squared error, and at most the share `most`.

    Both in (0, 1]. Of more rows than `most` allows so many are drawn. Either number is made a multiple of `multiple`,
    if there are as many rows.
    """

    kept: float
    most: float = 1.0
    multiple: int = 1

    def filled(self, count: int, total: int) -> int:
        """So many of the total, or some more."""
        return min(total, -(-count // self.multiple) * self.multiple)


class _Selected(torch.autograd.Function):
    """network(*inputs), whose backward is that of a second pass, of the rows that err."""

    @staticmethod
    def forward(
        ctx,
        network: Callable[..., Tensor],
        selection: Selection,
        room: Room | None,
        known: Tensor | None,
        joint: Tensor,
        *inputs: Tensor,
    ) -> Tensor:
        device = joint.device.type
        ctx.network, ctx.selection, ctx.room = network, selection, room
        ctx.autocast = (device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
        ctx.save_for_backward(*inputs)
        y = network(*inputs) if known is None else known.clone()
        if y.dim() != 2 or any(len(x) != len(y) for x in inputs):
            found = ", ".join(str(tuple(x.shape)) for x in (*inputs, y))
            raise ValueError(f"selected needs rows of inputs and as many rows (n, c) of outputs, and has {found}")
        return y

    @staticmethod
    def backward(ctx, error: Tensor) -> tuple[None, ...]:
        rows, weights = chosen(error, ctx.selection, ctx.room)
        with torch.enable_grad(), torch.autocast(*ctx.autocast):
            y = ctx.network(*(x.detach()[rows] for x in ctx.saved_tensors))
        torch.autograd.backward(y, error[rows] if weights is None else error[rows] * weights[:, None].to(error.dtype))
        return (None,) * (5 + len(ctx.saved_tensors))


def selected(
    network: Callable[..., Tensor],
    selection: Selection,
    *inputs: Float[Tensor, "rows _"],
    room: Room | None = None,
    known: Float[Tensor, "rows c"] | None = None,
) -> Float[Tensor, "rows c"]:
    """network(*inputs); `backward` adds to its parameters' `.grad` what the rows give that `chosen` chooses.

    network: of rows that do not depend on each other, without random numbers; it is called twice. room: see `chosen`.
    known: network(*inputs), where it was asked before; it is not asked again.
    Nothing flows back to the inputs, and torch.autograd.grad finds no parameter behind y. Under DistributedDataParallel
    one call in a pass: the way back of a first one already sends its gradients to the other processes.
    """
    joint = torch.zeros((), device=inputs[0].device, requires_grad=True)  # so that the error comes here at all
    return _Selected.apply(network, selection, room, known, joint, *inputs)


def chosen(
    error: Float[Tensor, "rows c"], selection: Selection, room: Room | None = None
) -> tuple[Int64[Tensor, " some"], Float[Tensor, " some"] | None]:
    """The rows that go back, and what their errors are to be multiplied by; None: by nothing.

    They are the fewest that have the share `kept`, at least one; 1 keeps every row that errs, but those that rounding
    in 64 bits loses. Where a part of the rows says that they are more than `most`, `drawn` draws. The host waits to be
    told how many there are. With a room it does not, but takes the rows with the largest error that the room has space
    for, as a share of those that have any, and draws where that is more than `most`.
    """
    kept, most, _ = selection
    if not len(error):
        return torch.empty(0, dtype=torch.int64, device=error.device), None
    score = scores(error)
    wanted = selection.filled(max(1, int(most * len(score))), len(score))
    if room is None:
        part = score[:: len(score) // LOOKS | 1]  # odd: else of rays of 64 samples always the same ones
        if most < 1 and int(_fewest(part, kept)[1]) > most * len(part):
            return drawn(score, wanted)
        order, count = _fewest(score, kept)
        return order[: selection.filled(int(count), len(order))], None
    order, count = _fewest(score, kept)
    room.note(count, (score > 0).sum())  # rows that only fill space have none, and how many they are changes
    return drawn(score, wanted) if room.share > most else (order[: room.rows(len(order))], None)


def scores(error: Float[Tensor, "rows c"]) -> Float[Tensor, " rows"]:
    """Squared error of each row. Columns count alike, whatever their scale: each is divided by its mean square."""
    squares = error.float().square()
    return (squares / squares.mean(0).clamp(min=1e-30)).sum(1)


def _fewest(score: Float[Tensor, " rows"], kept: float) -> tuple[Int64[Tensor, " rows"], Int64[Tensor, ""]]:
    """The rows by score, the largest first, and how many of them have the share `kept` of it."""
    falling, order = score.sort(descending=True)
    reached = falling.double().cumsum(0)
    return order, (reached < kept * reached[-1]).sum() + 1


def drawn(score: Float[Tensor, " rows"], count: int) -> tuple[Int64[Tensor, " some"], Float[Tensor, " some"]]:
    """So many of the rows, at random, and 1 / p of each.

    p_n = min(1, sqrt(score_n) / t), with the t that makes their sum the number of rows to be drawn: of all
    probabilities those by which the errors drawn vary least. No row is drawn twice: one number u in [0, 1) decides, and
    row n is drawn where a whole number + u lies in its stretch of the sum (systematic sampling, Madow 1949). Where
    fewer err what is left over has weight 0.
    """
    p = score.double().sqrt()
    p *= count / p.sum().clamp(min=1e-300)
    for _ in range(SHARINGS):
        full = p >= 1
        p = torch.where(full, 1.0, p * ((count - full.sum()) / p.masked_fill(full, 0).sum().clamp(min=1e-300)))
    reached = p.clamp_(max=1).cumsum(0)
    at = torch.arange(count, device=p.device) + torch.rand((), dtype=p.dtype, device=p.device)
    rows = torch.searchsorted(reached, at, right=True).clamp_(max=len(p) - 1)
    return rows, torch.where(at < reached[-1], 1 / p[rows], 0).float()
