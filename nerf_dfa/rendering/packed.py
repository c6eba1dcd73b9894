"""Samples of rays in one long row, so that those in empty space need not be there at all.

    samples = pack(chosen, t, delta)          # of (rays, samples) the chosen ones, ray by ray
    seen = Seen.nothing(t).behind(samples, sigma, rgb)
    pixels = seen.pixels(far, background)

The sums along a ray are sums over segments of the row. Light may be followed in parts: what lies behind is added to
what was seen before, so that a ray can end where nothing more shines through.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from nerf_dfa.learning.room import Room
from nerf_dfa.rendering.compositing import Pixels

# Optical depth beyond which exp(-depth) is nothing in 32 bits; larger ones, of endless intervals, would only harm sums.
OPAQUE_DEPTH = 100.0


class Samples(NamedTuple):
    """The number of the ray, the depth and the length of every sample, in scene units; sorted by ray, then depth.

    index: the sample's place in the (rays, samples) that it was chosen from, row by row.
    """

    ray: Int64[Tensor, " n"]
    t: Float[Tensor, " n"]
    delta: Float[Tensor, " n"]
    index: Int64[Tensor, " n"]


def pack(
    chosen: Bool[Tensor, "rays part"],
    t: Float[Tensor, "rays samples"],
    delta: Float[Tensor, "rays samples"],
    first: int = 0,
    room: Room | None = None,
) -> Samples:
    """The chosen ones of all rays' samples, where `chosen` begins with the one numbered `first`.

    The host waits to be told how many there are. With a room it does not: there are as many samples as there is space
    for, of which those at the end have length 0 and add nothing, and a ray for which no space is left is empty.
    """
    if room is None:
        ray, column = chosen.nonzero().unbind(1)
        index = ray * t.shape[1] + column + first
        return Samples(ray, t.reshape(-1)[index], delta.reshape(-1)[index], index)
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
    index = ray * t.shape[1] + places % chosen.shape[1] + first
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
    return torch.exp(start[ray] - before).float(), torch.exp(start - end).float()


class Seen(NamedTuple):
    """What rays have met so far: colour, sum of weights, sum of weights times depth, and the light that goes on."""

    rgb: Float[Tensor, "rays 3"]
    opacity: Float[Tensor, " rays"]
    depth: Float[Tensor, " rays"]
    transmittance: Float[Tensor, " rays"]
    weights: Float[Tensor, "rays samples"]

    @staticmethod
    def nothing(t: Float[Tensor, "rays samples"]) -> Seen:
        zero = torch.zeros_like(t[:, 0])
        return Seen(
            torch.zeros_like(zero[:, None].expand(-1, 3)), zero, zero, torch.ones_like(zero), torch.zeros_like(t)
        )

    def behind(self, samples: Samples, sigma: Float[Tensor, " n"], rgb: Float[Tensor, "n 3"]) -> Seen:
        """With samples behind all that was met before; sigma: density in 1 / scene unit, rgb: colour in [0, 1]."""
        optical_depth = (sigma * samples.delta).clamp(max=OPAQUE_DEPTH)
        before, through = light_before(optical_depth, samples.ray, len(self.opacity))
        weights = self.transmittance[samples.ray] * before * -torch.expm1(-optical_depth)
        return Seen(
            self.rgb.index_add(0, samples.ray, weights[:, None] * rgb),
            self.opacity.index_add(0, samples.ray, weights),
            self.depth.index_add(0, samples.ray, weights * samples.t),
            self.transmittance * through,
            self.weights.view(-1).index_add(0, samples.index, weights).view_as(self.weights),
        )

    def pixels(self, far: Float[Tensor, " rays"], background: float) -> Pixels:
        """Over a background of one grey value; what passes the scene counts at depth `far`."""
        rest = (1 - self.opacity).clamp(min=0)
        return Pixels(self.rgb + rest[:, None] * background, self.opacity, self.depth + rest * far, self.weights)
