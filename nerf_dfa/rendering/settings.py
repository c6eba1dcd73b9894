"""How rays are rendered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Dual = Literal["none", "pixels", "raw"]


@dataclass(frozen=True)
class RenderSettings:
    """How rays are sampled and composited.

    samples: coarse samples of a ray; importance: further ones, drawn where the coarse weights are large (0: the
    coarse field alone). lindisp: coarse strata equal in disparity. background: grey value behind the scene.
    perturb: samples are random and noise: standard deviation of the noise on the raw density, both while training
    only. opaque_end: the last sample stands for all that lies behind it. netchunk: most points that go through a
    field at once (packed ones: the next multiple of query.ROWS). error_kept: in training, the share of the squared
    error at a field's outputs that goes back; where it is below 1, samples_back is the largest share of samples that
    do, of those that light comes to where rays end in the dark. The others are left out, or spoken for
    (learning/selected.py). static_shapes: in training, samples and those
    that err are given the space that the fields' rooms say, so that the host waits for the device in
    `RadianceModel.settle` alone; a ray without space is empty and teaches nothing, and none ends before its last
    sample. dual: NeRF-Dual, see `render_rays`.
    """

    samples: int = 64
    importance: int = 128
    lindisp: bool = False
    background: float = 1.0
    perturb: bool = True
    noise: float = 0.0
    opaque_end: bool = False
    netchunk: int = 8192
    error_kept: float = 1.0
    samples_back: float = 1.0
    static_shapes: bool = False
    dual: Dual = "none"
