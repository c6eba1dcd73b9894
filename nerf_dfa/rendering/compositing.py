"""From densities and colours along a ray to the colour of its pixel (NeRF, equation 3).

`sigma` is density in 1 / scene unit; `t` are ascending sample depths; `delta` the lengths, in scene units, of the
intervals that the samples stand for; `weights` say how much each sample contributes and sum to at most 1.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

# Length of the last interval where the scene is opaque behind it: the authors' code takes the last sample of
# a ray for everything beyond.
INFINITE = 1e10


class Pixels(NamedTuple):
    """What is seen along rays.

    rgb: colour in [0, 1] over the background; opacity: sum of weights, in [0, 1]; depth: expected t, where what
    passes the scene counts at `far`; weights: the samples' contributions.
    """

    rgb: Float[Tensor, "*batch 3"]
    opacity: Float[Tensor, "*batch"]
    depth: Float[Tensor, "*batch"]
    weights: Float[Tensor, "*batch samples"]

    @property
    def disparity(self) -> Float[Tensor, "*batch"]:
        """1 / depth."""
        return 1 / self.depth.clamp(min=1e-6)


def intervals(
    t: Float[Tensor, "*batch samples"],
    far: Float[Tensor, "*batch"],
    directions: Float[Tensor, "*batch 3"],
    opaque_end: bool | Bool[Tensor, "*batch 1"],
) -> Float[Tensor, "*batch samples"]:
    """Length of the interval that begins at each sample; the last one ends at `far`, or nowhere where opaque_end."""
    opaque = torch.as_tensor(opaque_end, device=t.device)
    end = torch.where(opaque, INFINITE, (far[..., None] - t[..., -1:]).clamp(min=0))
    return torch.cat([t[..., 1:] - t[..., :-1], end], dim=-1) * directions.norm(dim=-1, keepdim=True)


def volume_weights(
    sigma: Float[Tensor, "*batch samples"], delta: Float[Tensor, "*batch samples"]
) -> Float[Tensor, "*batch samples"]:
    """w_i = T_i (1 - exp(-sigma_i delta_i)) with transmittance T_i = exp(-sum_{j<i} sigma_j delta_j).

    Computed from the sum of optical depths, which keeps values and gradients finite for any density >= 0.
    """
    optical_depth = sigma * delta
    before = torch.cat([torch.zeros_like(optical_depth[..., :1]), optical_depth[..., :-1]], dim=-1).cumsum(-1)
    return torch.exp(-before) * -torch.expm1(-optical_depth)


def composite(
    sigma: Float[Tensor, "*batch samples"],
    rgb: Float[Tensor, "*batch samples 3"],
    t: Float[Tensor, "*batch samples"],
    delta: Float[Tensor, "*batch samples"],
    far: Float[Tensor, "*batch"],
    background: float,
) -> Pixels:
    """Pixels of the rays over a background of one grey value (1 white, 0 black)."""
    weights = volume_weights(sigma, delta)
    opacity = weights.sum(-1)
    rest = (1 - opacity).clamp(min=0)
    colour = (weights[..., None] * rgb).sum(-2) + rest[..., None] * background
    depth = (weights * t).sum(-1) + rest * far
    return Pixels(colour, opacity, depth, weights)
