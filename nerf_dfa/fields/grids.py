"""Feature grids of several resolutions in one table: dense where they fit, hashed where not (Mueller et al. 2022).

A point lies in one cell of every grid, and reads the sum of the features at the cell's 8 corners by trilinear weights.
A corner's features are a row of the table; a coarse grid has a row for every corner, a fine one shares 2^T rows by
a hash of the corner's place, and learning sorts out who needs which.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int32
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Multipliers of x, y and z in the spatial hash (instant-ngp, equation 4), in integers of 32 bits that wrap around.
PRIMES = (1, 2654435761 - 2**32, 805459861)


class Level(NamedTuple):
    """One grid: its corners along x, y and z, and the rows of the table that are its own."""

    corners: tuple[int, int, int]
    first_row: int
    rows: int

    @property
    def hashed(self) -> bool:
        return math.prod(self.corners) > self.rows


def make_levels(resolutions: Sequence[int], depth: float, most_rows: int) -> list[Level]:
    """Grids of these resolutions, one behind the other in the table; hashed where more than `most_rows` corners.

    depth: resolution along z as a share of that along x and y.
    """
    levels: list[Level] = []
    for n in resolutions:
        corners = (n, n, max(2, round(n * depth)))
        first = levels[-1].first_row + levels[-1].rows if levels else 0
        levels.append(Level(corners, first, min(math.prod(corners), most_rows)))
    return levels


class FeatureGrids(nn.Module):
    """Trilinear features of points in [-1, 1]^3 from grids, one for each resolution, side by side.

    The outermost corners lie on the cube's surface, which points outside read. `table` (rows, features) is the one
    parameter, 2^log2_table the most rows of a grid.
    """

    def __init__(self, resolutions: Sequence[int], features: int, depth: float = 1.0, log2_table: int = 19) -> None:
        super().__init__()
        self.levels = make_levels(resolutions, depth, 1 << log2_table)
        # Small and random, as in instant-ngp: the network starts from nearly the same input everywhere.
        rows = sum(level.rows for level in self.levels)
        self.table = nn.Parameter(torch.empty(rows, features).uniform_(-0.1, 0.1))
        cells = torch.tensor([level.corners for level in self.levels]) - 1.0
        self.register_buffer("cells", cells, persistent=False)  # of each level along x, y, z
        self.width = features * len(self.levels)

    def forward(self, points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch features"]:
        rows, weights = self.corners(points.reshape(-1, 3))
        features = ReadTable.apply(self.table, rows.flatten(0, 1), weights.flatten(0, 1))
        return features.view(*points.shape[:-1], self.width)

    def corners(self, points: Float[Tensor, "n 3"]) -> tuple[Int32[Tensor, "n levels 8"], Float[Tensor, "n levels 8"]]:
        """Rows of the table, and their weights, of the 8 corners around each point in every grid; x goes fastest."""
        cells = self.cells.T[:, :, None].to(points.dtype)
        place = (points.T.contiguous() + 1)[:, None] / 2 * cells  # (3, levels, n)
        place = torch.minimum(place, cells).clamp(min=0)
        low = torch.minimum(place, cells - 1).to(torch.int32).clamp_(min=0)  # again: what NaN becomes is no row
        right = place - low
        rows, weights = [], []
        for number, level in enumerate(self.levels):
            x, y, z = torch.stack([1 - right[:, number], right[:, number]], dim=1)
            weights.append((z[:, None, None] * y[:, None] * x).view(8, -1).T)
            rows.append(row_numbers(level, low[:, number]).view(8, -1).T)
        return torch.stack(rows, dim=1), torch.stack(weights, dim=1)

    def extra_repr(self) -> str:
        grids = (f"{'x'.join(map(str, v.corners))}{' hashed' if v.hashed else ''}" for v in self.levels)
        return f"{', '.join(grids)}; {self.table.shape[0]:,} rows of {self.table.shape[1]}"


def row_numbers(level: Level, low: Int32[Tensor, "3 n"]) -> Int32[Tensor, "2 2 2 n"]:
    """Rows of a cell's corners (z, y, x); low: number of the corner with the least x, y and z."""
    nx, ny, _ = level.corners
    steps = PRIMES if level.hashed else (1, nx, nx * ny)
    x, y, z = (torch.stack([at * step, (at + 1) * step]) for at, step in zip(low, steps, strict=True))
    if level.hashed:
        return ((z[:, None, None] ^ y[:, None] ^ x) & (level.rows - 1)) + level.first_row
    return (z + level.first_row)[:, None, None] + y[:, None] + x


class ReadTable(torch.autograd.Function):
    """Weighted sums of 8 rows of a table: (rows, features), (n, 8), (n, 8) -> (n, features).

    The table's gradient is dense: an optimiser that passes over all numbers in one kernel is faster than finding out
    which rows were read.
    """

    @staticmethod
    def forward(ctx, table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(table, rows, weights)
        return F.embedding_bag(rows, table, mode="sum", per_sample_weights=weights)

    @staticmethod
    @once_differentiable
    def backward(ctx, signal: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        table, rows, weights = ctx.saved_tensors
        to_table = to_weights = None
        if ctx.needs_input_grad[0]:
            to_table = torch.zeros_like(table)
            into, parts = paired(to_table), paired(signal.contiguous())
            for column in range(into.shape[1]):
                into[:, column].index_add_(0, rows.view(-1), (weights * parts[:, column, None]).view(-1))
        if ctx.needs_input_grad[2]:
            to_weights = (table[rows] * signal[:, None]).sum(-1)
        return to_table, None, to_weights


def paired(x: Tensor) -> Tensor:
    """(n, m) numbers as (n, m / 2) complex ones of the same memory, as they are if m is odd.

    On a CPU, index_add_ is many times faster on a column than on rows, and takes as long for a pair as for a number.
    """
    return x if x.shape[1] % 2 else torch.view_as_complex(x.view(len(x), x.shape[1] // 2, 2))


def level_resolutions(coarsest: int, finest: int, levels: int) -> list[int]:
    """Resolutions in geometric progression (instant-ngp, equations 2 and 3)."""
    if levels == 1:
        return [finest]
    growth = math.exp(math.log(finest / coarsest) / (levels - 1))
    return [round(coarsest * growth**level) for level in range(levels)]
