"""A field for speed: features on grids of several resolutions, read by a small network."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nerf_dfa.fields.encodings import encoded_width, positional_encoding
from nerf_dfa.fields.field import DensityActivation, Field, joint_linear
from nerf_dfa.learning import make_rule


class DenseGrids(nn.Module):
    """Trilinear features of points in [-1, 1]^3 from grids, one for each resolution, side by side.

    The values at the corners are the parameters; points outside the cube read its surface. depth: resolution along z
    as a share of that along x and y.
    """

    def __init__(self, resolutions: Sequence[int], features: int, depth: float = 1.0) -> None:
        super().__init__()
        shapes = [(1, features, max(2, round(r * depth)), r, r) for r in resolutions]
        # Small and random, as in instant-ngp: the network starts from nearly the same input everywhere.
        self.grids = nn.ParameterList(torch.empty(shape).uniform_(-0.1, 0.1) for shape in shapes)
        self.width = features * len(resolutions)

    def forward(self, points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch features"]:
        where = points.reshape(1, -1, 1, 1, 3)
        read = [
            F.grid_sample(grid, where, mode="bilinear", padding_mode="border", align_corners=True).flatten(2)
            for grid in self.grids
        ]
        return torch.cat(read, dim=1)[0].T.reshape(*points.shape[:-1], self.width)


class GridField(Field):
    """Grid features -> one hidden layer -> density; with the encoded direction -> another one -> colour.

    Feedback points: the features themselves, so that the grids learn from e @ B_0 and no weight is transported
    anywhere, and both hidden layers.

    box: lower and upper corner of the cube or cuboid in the world that the grids fill; the field is empty outside
    it, and the renderer samples inside it only.
    """

    def __init__(
        self,
        box: Float[Tensor, "2 3"],
        resolutions: Sequence[int] = (16, 32, 64),
        features: int = 4,
        depth: float = 1.0,
        width: int = 64,
        direction_frequencies: int = 2,
        learning_rule: str = "bp",
        density_activation: DensityActivation = "softplus",
        rule_options: dict | None = None,
    ) -> None:
        super().__init__(density_activation, box.clone())
        self.direction_frequencies = direction_frequencies
        self.grids = DenseGrids(resolutions, features, depth)
        self.density_hidden = nn.Linear(self.grids.width, width)
        self.density_head = nn.Linear(width, 1)
        self.colour_hidden = nn.Linear(width + encoded_width(3, direction_frequencies), width)
        self.colour_head = nn.Linear(width, 3)
        hidden = [self.grids.width, width, width]
        self.rule = make_rule(learning_rule, 4, hidden, **(rule_options or {})).prepare(self)

    def raw(
        self, positions: Float[Tensor, "*batch 3"], directions: Float[Tensor, "*#batch 3"]
    ) -> Float[Tensor, "*batch 4"]:
        tape = self.rule.tape()
        low, high = self.box
        features = tape.hidden(self.grids((positions - low) / (high - low) * 2 - 1))
        hidden = tape.hidden(F.relu(self.density_hidden(features)))
        sigma = self.density_head(hidden)
        encoded = positional_encoding(directions, self.direction_frequencies)
        hidden = tape.hidden(F.relu(joint_linear(self.colour_hidden, hidden, encoded)))
        return tape.output(torch.cat([self.colour_head(hidden), sigma], dim=-1)).float()


def level_resolutions(coarsest: int, finest: int, levels: int) -> list[int]:
    """Resolutions in geometric progression (instant-ngp, equations 2 and 3)."""
    if levels == 1:
        return [finest]
    growth = math.exp(math.log(finest / coarsest) / (levels - 1))
    return [round(coarsest * growth**level) for level in range(levels)]
