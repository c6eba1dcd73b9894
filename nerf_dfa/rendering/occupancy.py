"""Which parts of a box hold anything, so that samples in empty space need not be evaluated (Mueller et al. 2022).

A cubic grid of cells keeps a running maximum of the density that was found in each. A cell counts as occupied if a
sample in it, or in a cell beside it, could take more than OPTICAL_DEPTH of the light.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

# Largest optical depth (density times length) of a sample that is left out as empty: 1 - exp(-0.01) of the light.
OPTICAL_DEPTH = 0.01
# Share of the running maximum that is left after an update: a cell that has become empty, and was a hundred times as
# dense as the limit, is found so in some 44. Where an update looks at less than RARE of the cells more is left, so that
# between two looks at a cell it is as much.
DECAY, RARE = 0.9, 0.25
# What rounding may put outside, of a ray that ends on the box's surface; in cells.
MARGIN = 1e-2
# Points of one pass through the density when a grid is filled.
BLOCK = 1 << 15

Density = Callable[[Float[Tensor, "n 3"]], Float[Tensor, " n"]]


class OccupancyGrid(nn.Module):
    """Cells of a box (2, 3), `resolution` along each axis; all occupied until the first update.

    Buffers: box; density (z, y, x), the running maximum; occupied, the same cells as yes or no.
    """

    def __init__(self, box: Float[Tensor, "2 3"], resolution: int) -> None:
        super().__init__()
        self.register_buffer("box", box.clone())
        self.register_buffer("density", torch.zeros(resolution, resolution, resolution))
        self.register_buffer("occupied", torch.ones(resolution, resolution, resolution, dtype=torch.bool))

    @property
    def resolution(self) -> int:
        return self.density.shape[0]

    def contains(self, positions: Float[Tensor, "*batch 3"]) -> Bool[Tensor, "*batch"]:
        """Whether there may be something at the positions; outside the box nothing is known, and there may."""
        middle, cells = self._scale()
        return self._look(((positions - middle) * cells).unbind(-1))

    def along(
        self,
        origins: Float[Tensor, "rays 3"],
        directions: Float[Tensor, "rays 3"],
        t: Float[Tensor, "rays samples"],
    ) -> Bool[Tensor, "rays samples"]:
        """The same at depths t of the rays."""
        middle, cells = self._scale()
        starts, steps = ((origins - middle) * cells).T[..., None], (directions * cells).T[..., None]
        return self._look(torch.addcmul(start, t, step) for start, step in zip(starts, steps, strict=True))

    def _scale(self) -> tuple[Float[Tensor, " 3"], Float[Tensor, " 3"]]:
        """The middle of the box, and how many cells there are to a scene unit."""
        low, high = self.box
        return (low + high) / 2, self.resolution / (high - low)

    def _look(self, axes: Iterable[Float[Tensor, "*batch"]]) -> Bool[Tensor, "*batch"]:
        """The same at places given by x, y and z apart, in cells from the middle of the box; changes them.

        Few passes over whole tensors: they are faster than passes over threes, and are all the time that this takes.
        """
        n = self.resolution
        row = farthest = None
        for place, step in zip(axes, (1, n, n * n), strict=True):
            distance = place.abs()
            farthest = distance if farthest is None else torch.maximum(farthest, distance)
            cell = place.add_(n / 2).clamp_(0, n - 1).to(torch.int32)
            row = cell if row is None else row.add_(cell, alpha=step)
        occupied = self.occupied.view(-1).index_select(0, row.view(-1)).view_as(row)
        return occupied.logical_or_(farthest > n / 2 + MARGIN)

    @torch.no_grad()
    def update(self, density: Density, length: float, generator: torch.Generator, share: float = 1.0) -> None:
        """Looks at a random point of a random `share` of the cells, and decides anew which are occupied.

        length: of a ray that a sample stands for, in scene units.
        """
        values, device = self.density.view(-1), self.density.device
        count = max(1, round(share * values.numel()))
        if count < values.numel():
            cells = torch.randint(values.numel(), (count,), generator=generator, device=device)
        else:
            cells = torch.arange(values.numel(), device=device)
        values.mul_(DECAY ** min(1.0, share / RARE))
        for part in cells.split(BLOCK):
            found = density(self._points(part, torch.rand(len(part), 3, generator=generator, device=device)))
            values[part] = torch.maximum(values[part], found)
        self.decide(length)

    def decide(self, length: float) -> None:
        """Which cells are occupied, by their density and their neighbours'.

        What is nearly as dense as the mean is never empty: a field that has learned nothing is thin everywhere.
        """
        limit = (0.9 * self.density.mean()).clamp(max=OPTICAL_DEPTH / length)  # on the device: nothing waits for it
        self.occupied.copy_(dilated(self.density >= limit))

    def _points(self, cells: Int64[Tensor, " n"], within: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """Places in the world, `within` [0, 1] of each cell."""
        n = self.resolution
        corner = torch.stack([cells % n, cells // n % n, cells // n**2], dim=-1)
        low, high = self.box
        return low + (corner + within) / n * (high - low)

    def share(self) -> float:
        """The occupied share of the box."""
        return self.occupied.float().mean().item()

    def extra_repr(self) -> str:
        return f"{self.resolution}, {self.share():.1%} occupied"


def dilated(cells: Bool[Tensor, "z y x"]) -> Bool[Tensor, "z y x"]:
    """True too where one of the 26 cells beside it is."""
    for axis in range(3):
        pairs = cells.shape[axis] - 1
        grown = cells.clone()
        grown.narrow(axis, 0, pairs).logical_or_(cells.narrow(axis, 1, pairs))
        grown.narrow(axis, 1, pairs).logical_or_(cells.narrow(axis, 0, pairs))
        cells = grown
    return cells
