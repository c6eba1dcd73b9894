"""Which parts of a box hold anything, so that samples in empty space need not be evaluated (Mueller et al. 2022).

A cubic grid of cells keeps a running maximum of the density that was found in each. A cell counts as occupied if a
sample in it, or in a cell beside it, could take more than OPTICAL_DEPTH of the light.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

# Largest optical depth (density times length) of a sample that is left out as empty: 1 - exp(-0.01) of the light.
OPTICAL_DEPTH = 0.01
# Share of the running maximum that is left after an update: a cell that has become empty is found so in some 30.
DECAY = 0.9
# What rounding may put outside, of a ray that ends on the box's surface; in cells.
MARGIN = 1e-2
# Points of one pass through the density when a grid is filled.
BLOCK = 1 << 16

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
        n = self.resolution
        low, high = self.box
        place = (positions - low) * (n / (high - low))
        inside = ((place > -MARGIN) & (place < n + MARGIN)).all(-1)
        x, y, z = place.clamp(0, n - 1).to(torch.int64).unbind(-1)
        return self.occupied.view(-1)[(z * n + y) * n + x] | ~inside

    @torch.no_grad()
    def update(self, density: Density, length: float, generator: torch.Generator, share: float = 1.0) -> None:
        """Looks at a random point of a random `share` of the cells, and decides anew which are occupied.

        length: of a ray that a sample stands for, in scene units.
        """
        values, device = self.density.view(-1), self.density.device
        count = max(1, round(share * values.numel()))
        cells = torch.arange(values.numel(), device=device)
        if count < values.numel():
            cells = torch.randint(values.numel(), (count,), generator=generator, device=device)
        values.mul_(DECAY)
        for part in cells.split(BLOCK):
            found = density(self._points(part, torch.rand(len(part), 3, generator=generator, device=device)))
            values[part] = torch.maximum(values[part], found)
        self.decide(length)

    def decide(self, length: float) -> None:
        """Which cells are occupied, by their density and their neighbours'.

        What is nearly as dense as the mean is never empty: a field that has learned nothing is thin everywhere.
        """
        limit = min(OPTICAL_DEPTH / length, 0.9 * self.density.mean().item())
        spread = F.max_pool3d(self.density[None, None], 3, stride=1, padding=1)[0, 0]
        self.occupied.copy_(spread >= limit)

    def _points(self, cells: Int64[Tensor, " n"], within: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """Places in the world, `within` [0, 1] of each cell."""
        n = self.resolution
        corner = torch.stack([cells % n, cells // n % n, cells // n**2], dim=-1)
        low, high = self.box
        return low + (corner + within) / n * (high - low)

    def extra_repr(self) -> str:
        return f"{self.resolution}, {self.occupied.float().mean().item():.1%} occupied"
