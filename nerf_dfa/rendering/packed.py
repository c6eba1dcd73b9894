"""Samples of rays in one long row, so that those in empty space need not be there at all.

    samples = pack(chosen, t, delta)                  # of (rays, samples) the chosen ones, ray by ray
    samples, values = in_sight(samples, rays, look)   # without those that no light comes to
    pixels, light = composite_packed(samples, sigma, rgb, t, far, background)

The sums along a ray are sums over segments of the row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from nerf_dfa.learning.room import Room
from nerf_dfa.rendering.compositing import Pixels

# Optical depth beyond which exp(-depth) is nothing in 32 bits; larger ones, of endless intervals, would only harm sums.
OPAQUE_DEPTH = 100.0
# A ray ends where less light than this goes on. Its first samples are looked at together, so many; then twice as many.
DARK = 1e-3
TOGETHER = 16


class Samples(NamedTuple):
    """The number of the ray, the depth and the length of every sample, in scene units; sorted by ray, then depth.

    index: the sample's place in the (rays, samples) that it was chosen from, row by row.
    """

    ray: Int64[Tensor, " n"]
    t: Float[Tensor, " n"]
    delta: Float[Tensor, " n"]
    index: Int64[Tensor, " n"]

    def take(self, which: Bool[Tensor, " n"] | Int64[Tensor, " some"]) -> Samples:
        if which.dtype == torch.bool:
            which = which.nonzero()[:, 0]  # once for all columns
        return Samples(*(column.index_select(0, which) for column in self))


def pack(
    chosen: Bool[Tensor, "rays samples"],
    t: Float[Tensor, "rays samples"],
    delta: Float[Tensor, "rays samples"],
    room: Room | None = None,
) -> Samples:
    """The chosen ones of all rays' samples.

    The host waits to be told how many there are. With a room it does not: there are as many samples as there is space
    for, of which those at the end have length 0 and add nothing, and a ray for which no space is left is empty.
    """
    if room is None:
        ray, column = chosen.nonzero().unbind(1)
        index = ray * t.shape[1] + column
        return Samples(ray, *(x.reshape(-1).index_select(0, index) for x in (t, delta)), index)
    total, size = chosen.numel(), room.rows(chosen.numel())
    number = chosen.reshape(-1).cumsum(0)  # of each chosen sample, from 1
    room.note(chosen.sum(), total)
    whole = number.view_as(chosen)[:, -1:] <= size
    fits = (chosen & whole).view(-1)
    # Each sample's place goes to its number; all others' to one place too many.
    numbers = torch.where(fits, number, size + 1) - 1
    places = torch.arange(total, device=t.device)
    places = torch.full((size + 1,), total - 1, device=t.device).scatter(0, numbers, places)[:size]
    ray = places // chosen.shape[1]
    index = places
    there = torch.arange(size, device=t.device) < fits.sum()
    return Samples(ray, t.reshape(-1)[index], torch.where(there, delta.reshape(-1)[index], 0.0), index)


def light_before(
    optical_depth: Float[Tensor, " n"], ray: Int64[Tensor, " n"], rays: int
) -> tuple[Float[Tensor, " n"], Float[Tensor, " rays"]]:
    """exp(-sum of the ray's optical depths before each sample), and exp(-sum of all) of each ray.

    A running sum over the whole row in float64, less what it was where the ray began.
    """
    running = optical_depth.double().cumsum(0)
    before = running - optical_depth
    padded = torch.cat([running.new_zeros(1), running])
    # Where each ray's samples begin and end; unlike a count of them this keeps no host waiting.
    at = padded[torch.searchsorted(ray, torch.arange(rays + 1, device=ray.device))]
    start, end = at[:-1], at[1:]
    return torch.exp(start.index_select(0, ray) - before).float(), torch.exp(start - end).float()


@torch.no_grad()
def in_sight(
    samples: Samples, rays: int, look: Callable[[Samples], tuple[Float[Tensor, " part"], Tensor | None]]
) -> tuple[Samples, Tensor | None]:
    """The samples before which more than DARK of the light is left, with what `look` saw there, and some behind them.

    look: of some of the samples, their density (1 / scene unit), and values (part, ...) that are handed on, or None;
    what comes of it has no gradient. Rays are followed in parts, from the eye on; the part in which a ray gets dark,
    as long as all before it, is there to its end.
    """
    count, device = len(samples.ray), samples.ray.device
    first = torch.searchsorted(samples.ray, torch.arange(rays, device=device))
    rank = torch.arange(count, device=device) - first.index_select(0, samples.ray)
    light = torch.ones(rays, device=device)
    seen = torch.zeros(count, dtype=torch.bool, device=device)
    values: Tensor | None = None
    left, end = torch.arange(count, device=device), TOGETHER
    while len(left):
        near = rank.index_select(0, left) < end
        at = left[near]
        part = samples.take(at)
        sigma, found = look(part)
        if found is not None:
            values = found.new_empty(count, *found.shape[1:]) if values is None else values
            values[at] = found
        seen[at] = True
        light = light * light_before((sigma * part.delta).clamp(max=OPAQUE_DEPTH), part.ray, rays)[1]
        left = left[~near]
        left, end = left[light.index_select(0, samples.ray.index_select(0, left)) > DARK], 2 * end
    return samples.take(seen), None if values is None else values[seen]


def composite_packed(
    samples: Samples,
    sigma: Float[Tensor, " n"],
    rgb: Float[Tensor, "n 3"],
    t: Float[Tensor, "rays samples"],
    far: Float[Tensor, " rays"],
    background: float,
) -> tuple[Pixels, Float[Tensor, " n"]]:
    """What `composite` makes of all samples (at depths t), if those that are not packed are empty; the light at each.

    sigma: density in 1 / scene unit; rgb: colour in [0, 1]. Behind the samples is a background of one grey value; what
    passes them counts at depth `far`.
    """
    rays = len(t)
    optical_depth = (sigma * samples.delta).clamp(max=OPAQUE_DEPTH)
    light = light_before(optical_depth, samples.ray, rays)[0]
    weights = light * -torch.expm1(-optical_depth)
    opacity = t.new_zeros(rays).index_add(0, samples.ray, weights)
    rest = (1 - opacity).clamp(min=0)
    pixels = Pixels(
        t.new_zeros(rays, 3).index_add(0, samples.ray, weights[:, None] * rgb) + rest[:, None] * background,
        opacity,
        t.new_zeros(rays).index_add(0, samples.ray, weights * samples.t) + rest * far,
        t.new_zeros(t.numel()).index_add(0, samples.index, weights).view_as(t),
    )
    return pixels, light.detach()
