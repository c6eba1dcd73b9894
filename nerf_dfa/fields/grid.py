"""A field for speed: features on grids of several resolutions (grids.py), read by a small network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nerf_dfa.fields.encodings import encoded_width, positional_encoding
from nerf_dfa.fields.field import COLOUR, Activation, DensityActivation, Field, activated, joint_linear
from nerf_dfa.fields.grids import FeatureGrids
from nerf_dfa.learning import make_rule
from nerf_dfa.learning.sequential import SequentialLinear
from nerf_dfa.learning.tapes import Tape

GridGradient = Literal["feedback", "kp", "mirror", "first_layer"]


class GridField(Field):
    """Grid features -> one hidden layer -> density; with the encoded direction -> another one -> colour.

    Feedback points: both hidden layers, and with grid_gradient "feedback" the features themselves, so that the grids
    learn from e @ B_0 and no weight is transported anywhere (but by the rule "modular", of which they are a module, and
    backpropagation leads there); with "first_layer" they get the delta of the layer that reads them times its weights
    (its mirror under "mdfa", whose layers all have one), and with "kp" or "mirror" times a matrix that learns to be
    like these (sequential.py), so that again none is transported: the grids' feedback is then gated by which units of
    that layer are active.

    own_outputs: direct feedback to the layer between density and colour is of the colour's error alone.

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
        log2_table: int = 19,
        grid_gradient: GridGradient = "feedback",
        learning_rule: str = "bp",
        density_activation: DensityActivation = "softplus",
        activation: Activation = "relu",
        rule_options: dict | None = None,
        own_outputs: bool = False,
    ) -> None:
        super().__init__(density_activation, box.clone())
        self.direction_frequencies = direction_frequencies
        self.grid_gradient = grid_gradient
        self.activation: Activation = activation
        self.grids = FeatureGrids(resolutions, features, depth, log2_table)
        first = nn.Linear(self.grids.width, width)
        learned = grid_gradient in ("kp", "mirror")
        self.density_hidden = SequentialLinear(first, grid_gradient) if learned else first
        self.density_head = nn.Linear(width, 1)
        self.colour_hidden = nn.Linear(width + encoded_width(3, direction_frequencies), width)
        self.colour_head = nn.Linear(width, 3)
        hidden = [self.grids.width] * (grid_gradient == "feedback") + [width, width]
        reach = [None] * (len(hidden) - 1) + [COLOUR] if own_outputs else []
        self.rule = make_rule(learning_rule, 4, hidden, reach, **(rule_options or {})).prepare(self)

    def heads(self) -> list[nn.Linear]:
        return [self.colour_head, self.density_head]

    def output_biases(self) -> tuple[Float[Tensor, " 3"], Float[Tensor, " 1"]]:
        return self.colour_head.bias, self.density_head.bias

    def raw(
        self, positions: Float[Tensor, "*batch 3"], directions: Float[Tensor, "*#batch 3"]
    ) -> Float[Tensor, "*batch 4"]:
        tape = self.rule.tape()
        hidden = self._seen(positions, tape)
        sigma = self.density_head(hidden)
        encoded = positional_encoding(directions, self.direction_frequencies)
        hidden = activated(tape, joint_linear(self.colour_hidden, hidden, encoded), self.activation)
        return tape.output(torch.cat([self.colour_head(hidden), sigma], dim=-1)).float()

    def raw_density(self, positions: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch"]:
        return self.density_head(self._seen(positions, Tape()))[..., 0].float()

    def _seen(self, positions: Float[Tensor, "*batch 3"], tape: Tape) -> Float[Tensor, "*batch width"]:
        """The hidden layer that density and colour are read from."""
        low, high = self.box
        features = self.grids((positions - low) / (high - low) * 2 - 1)
        if self.grid_gradient == "feedback":
            features = tape.hidden(features)
        return activated(tape, self.density_hidden(features), self.activation)
