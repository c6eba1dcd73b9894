"""What a field is: a map from position and direction to density and colour."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nerf_dfa.learning import Rule, Tape
from nerf_dfa.learning.room import Room
from nerf_dfa.learning.sequential import SequentialLinear

DensityActivation = Literal["softplus", "relu", "exp"]
Activation = Literal["relu", "tanh", "silu", "sine"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "silu": F.silu, "sine": torch.sin}

# With softplus(raw - 2) a new field is a thin fog (density 0.13 where raw = 0) that every ray passes and learns
# from; with ReLU about one run in three starts with zero density everywhere, and stays there.
SOFTPLUS_SHIFT = 2.0
# Of exp(raw): a density of three millions lets no light through anywhere, and a larger one could overflow.
MOST_RAW = 15.0
COLOUR = slice(0, 3)  # among the raw outputs
# Of a new field that `start_at` prepares, in 1 / scene unit.
START_DENSITY = 0.1


def density(raw: Float[Tensor, "*batch"], activation: DensityActivation) -> Float[Tensor, "*batch"]:
    """Volume density (1 / scene unit, not negative) from the field's raw output."""
    if activation == "softplus":
        return F.softplus(raw - SOFTPLUS_SHIFT)
    return F.relu(raw) if activation == "relu" else raw.clamp(max=MOST_RAW).exp()


def raw_of(density: float, activation: DensityActivation) -> float:
    """The raw output that gives this density (above 0): the inverse of `density`."""
    if activation == "softplus":
        return SOFTPLUS_SHIFT + math.log(math.expm1(density))
    return density if activation == "relu" else math.log(density)


class Rooms(NamedTuple):
    """Space, in a training step, for a field's samples and for those of them that err."""

    samples: Room
    errors: Room


class Field(nn.Module):
    """Base of all fields. A subclass gives `raw`; this class turns raw outputs into density and colour.

    box: (2, 3), lower and upper corner of the part of the world that the field fills; None: all of it.
    rule: how it learns; a subclass makes it.
    """

    box: Float[Tensor, "2 3"] | None
    rule: Rule

    def __init__(
        self, density_activation: DensityActivation = "softplus", box: Float[Tensor, "2 3"] | None = None
    ) -> None:
        super().__init__()
        self.register_buffer("box", box)
        self.density_activation: DensityActivation = density_activation
        self.rooms = Rooms(Room(), Room())

    def raw(
        self, positions: Float[Tensor, "*batch 3"], directions: Float[Tensor, "*#batch 3"]
    ) -> Float[Tensor, "*batch 4"]:
        """Red, green, blue and density before their activations, in float32.

        positions: in the world (or in normalised device coordinates); directions: unit vectors that broadcast
        against the positions, so that one direction can serve all samples of its ray.
        """
        raise NotImplementedError

    def raw_density(self, positions: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch"]:
        """The last of the raw outputs alone; a field for which that is less work says so."""
        return self.raw(positions, positions.new_zeros(3).expand_as(positions))[..., 3]

    def density(self, positions: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch"]:
        """Density (1 / scene unit) at the positions."""
        return density(self.raw_density(positions), self.density_activation)

    def heads(self) -> list[nn.Linear]:
        """The layers at the top, which have their exact gradient under every rule."""
        raise NotImplementedError

    def output_biases(self) -> tuple[Float[Tensor, " 3"], Float[Tensor, " 1"]]:
        """The biases of colour and density, part of the parameters, for `start_at` to write to."""
        raise NotImplementedError

    @torch.no_grad()
    def start_at(self, colour: Float[Tensor, " 3"]) -> None:
        """Makes a new field a fog of this colour in (0, 1) and of density START_DENSITY, but for what its weights add.

        From biases near zero every pixel's error begins with the same large part, which all must learn first. Under
        feedback that is linear in the error it moves all hidden units together, and much of their use is lost.
        """
        colours, sigma = self.output_biases()
        colours.copy_(torch.logit(colour))
        sigma.fill_(raw_of(START_DENSITY, self.density_activation))

    def activate(
        self, raw: Float[Tensor, "*batch 4"], noise: Float[Tensor, "*batch"] | None = None
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch 3"]]:
        """Density and colour in [0, 1] of raw outputs; `noise` is added to the raw density (NeRF, appendix A)."""
        sigma = raw[..., 3] if noise is None else raw[..., 3] + noise
        return density(sigma, self.density_activation), torch.sigmoid(raw[..., :3])

    def forward(
        self, positions: Float[Tensor, "*batch 3"], directions: Float[Tensor, "*#batch 3"]
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch 3"]]:
        """Density (1 / scene unit) and colour in [0, 1] at the positions, seen along the directions."""
        return self.activate(self.raw(positions, directions))


def activated(tape: Tape, z: Float[Tensor, "*batch n"], activation: Activation) -> Float[Tensor, "*batch n"]:
    """A hidden layer's activation and its feedback point; may overwrite z."""
    return tape.relu_(z) if activation == "relu" else tape.hidden(ACTIVATIONS[activation](z))


def joint_linear(
    layer: nn.Linear, x: Float[Tensor, "*batch n"], shared: Float[Tensor, "*#batch m"]
) -> Float[Tensor, "*batch out"]:
    """The layer applied to [x, shared], where `shared` may broadcast: one direction serves all samples of its ray.

    For a plain nn.Linear, and one with another way back, the product is split in two, and the shared part multiplied
    once.
    """
    if isinstance(layer, SequentialLinear):
        return layer.joint(x, shared)
    if type(layer) is not nn.Linear:
        return layer(torch.cat([x, shared.to(x.dtype).expand(*x.shape[:-1], -1)], dim=-1))
    n = x.shape[-1]
    return F.linear(x, layer.weight[:, :n]).add_(F.linear(shared, layer.weight[:, n:], layer.bias))
