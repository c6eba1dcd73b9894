"""The renderer: rays through a coarse and a fine field to pixels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from nerf_dfa.fields.field import Field
from nerf_dfa.rendering.cameras import Cameras
from nerf_dfa.rendering.chunks import Chunks
from nerf_dfa.rendering.compositing import Pixels, composite, intervals
from nerf_dfa.rendering.occupancy import OccupancyGrid
from nerf_dfa.rendering.packed import DARK, composite_packed
from nerf_dfa.rendering.query import learns, mean_of, packed_outputs, query
from nerf_dfa.rendering.rays import Rays, image_rays
from nerf_dfa.rendering.sampling import refine, stratified
from nerf_dfa.rendering.settings import RenderSettings

# Share of a training step's samples below which it pays to find those that light comes to first.
MUCH_LIT = 0.6


class RadianceModel(nn.Module):
    """The fields of one scene: coarse, which proposes where to look, and fine, which looks there.

    occupancy: where there is anything to see; samples elsewhere are not evaluated. None: all are. ends: whether rays
    end in the dark where gradients are taken, too, unless their density is noisy; to find where takes a pass of its
    own, which pays where much is in the dark.
    """

    def __init__(self, coarse: Field, fine: Field | None, occupancy: OccupancyGrid | None = None) -> None:
        super().__init__()
        self.coarse = coarse
        self.fine = fine
        self.occupancy = occupancy
        self.ends = False
        self._lit: dict[Field, tuple[Tensor, int]] = {}

    @property
    def fields(self) -> dict[str, Field]:
        """By name, coarse first."""
        return {"coarse": self.coarse} | ({} if self.fine is None else {"fine": self.fine})

    def density(self, positions: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """The larger of the fields' densities: what the occupancy has to hold."""
        return torch.stack([field.density(positions) for field in self.fields.values()]).amax(0)

    def note_light(self, field: Field, light: Float[Tensor, " n"], samples: int) -> None:
        """The light at some of the field's `samples` in a training step; to the others none comes."""
        self._lit[field] = ((light > DARK).sum(), samples)

    def settle(self) -> None:
        """Makes the space for samples what the steps since the last time would have needed, and a little more.

        Decides too, by the last step, whether rays end in the dark.
        """
        if self._lit:
            lit, samples = (sum(column) for column in zip(*self._lit.values(), strict=True))
            self.ends = int(lit) < MUCH_LIT * samples
            self._lit = {}
        for field in self.fields.values():
            for room in field.rooms:
                room.settle()


class RenderedRays(NamedTuple):
    """Pixels by the coarse field and, where there is one, by the fine field."""

    coarse: Pixels
    fine: Pixels | None

    @property
    def best(self) -> Pixels:
        return self.coarse if self.fine is None else self.fine


def render_rays(
    model: RadianceModel, rays: Rays, settings: RenderSettings, generator: torch.Generator | None = None
) -> RenderedRays:
    """Pixels of rays (n, ...). A generator, in training, makes samples and density noise random; None: neither.

    With `dual` (inference) both fields are evaluated at the fine samples, and their prediction is averaged:
    "pixels", the paper's NeRF-Dual, averages the composited pixels; "raw", its released code, the raw outputs
    before compositing.
    """
    far = rays.far
    if model.coarse.box is not None:
        rays = rays.clipped(model.coarse.box)
    if model.occupancy is None or torch.is_grad_enabled() or settings.opaque_end:
        return march(model, rays, far, settings, generator)
    meets = meeting(model.occupancy, rays, settings)
    part = march(model, rays.map(lambda x: x[meets]), far[meets], settings, generator)
    return RenderedRays(*(pixels and among_empty(pixels, meets, far, settings.background) for pixels in part))


def meeting(occupancy: OccupancyGrid, rays: Rays, settings: RenderSettings) -> Bool[Tensor, " rays"]:
    """Which rays come through an occupied cell, by as many samples as the fine field would have."""
    t = stratified(rays.near, rays.far, settings.samples + settings.importance, settings.lindisp, None)
    return occupancy.along(rays.origins, rays.directions, t).any(1) & (rays.near < rays.far)


def among_empty(part: Pixels, chosen: Bool[Tensor, " rays"], far: Float[Tensor, " rays"], background: float) -> Pixels:
    """The chosen rays' pixels among those of rays that see nothing."""
    rays = len(chosen)
    rgb, opacity = part.rgb.new_full((rays, 3), background), part.opacity.new_zeros(rays)
    weights = part.weights.new_zeros(rays, part.weights.shape[1])
    rgb[chosen], opacity[chosen], weights[chosen] = part.rgb, part.opacity, part.weights
    depth = far.clone()
    depth[chosen] = part.depth
    return Pixels(rgb, opacity, depth, weights)


def march(
    model: RadianceModel,
    rays: Rays,
    far: Float[Tensor, " rays"],
    settings: RenderSettings,
    generator: torch.Generator | None,
) -> RenderedRays:
    """Pixels of rays that the fields' box has clipped already; `far` is where they ended before."""
    jitter = generator if settings.perturb else None
    look = partial(see, model, rays, far, settings, generator)
    t = stratified(rays.near, rays.far, settings.samples, settings.lindisp, jitter)
    coarse = look([model.coarse], t)
    if model.fine is None:
        return RenderedRays(coarse, None)
    t = refine(t, coarse.weights, settings.importance, jitter)
    if settings.dual == "none":
        return RenderedRays(coarse, look([model.fine], t))
    if settings.dual == "raw":
        return RenderedRays(coarse, look([model.fine, model.coarse], t))
    both = zip(look([model.fine], t), look([model.coarse], t), strict=True)
    return RenderedRays(coarse, Pixels(*((a + b) / 2 for a, b in both)))


def see(
    model: RadianceModel,
    rays: Rays,
    far: Float[Tensor, " rays"],
    settings: RenderSettings,
    generator: torch.Generator | None,
    fields: Sequence[Field],
    t: Float[Tensor, "rays samples"],
) -> Pixels:
    """Pixels of rays whose samples lie at depths t, by the mean of the fields' raw outputs.

    far: where the rays end, be it behind a field's box. Where the model has an occupancy, samples outside it are left
    out, and, where the model says so or no gradients are taken, those that no light comes to.
    """
    # A ray that misses the field's box has near = far, and sees nothing.
    hits = rays.near < rays.far
    delta = intervals(t, rays.far, rays.directions, hits[:, None] & settings.opaque_end)
    noisy = generator is not None and settings.noise > 0

    def activate(raw: Tensor) -> tuple[Tensor, Tensor]:
        noise = None
        if noisy:
            noise = torch.randn(raw.shape[:-1], device=t.device, generator=generator) * settings.noise
        return fields[0].activate(raw, noise)

    if model.occupancy is None:
        sigma, rgb = activate(mean_of([query(field, rays, t, settings) for field in fields]))
        return composite(sigma, rgb, t, delta, far, settings.background)
    occupied = model.occupancy.along(rays.origins, rays.directions, t)
    occupied &= hits[:, None]
    if settings.opaque_end:
        occupied[:, -1] = hits  # it stands for all that lies behind
    ends = not noisy and (model.ends or not torch.is_grad_enabled())
    samples, raw = packed_outputs(fields, rays, t, delta, occupied, settings, ends)
    sigma, rgb = activate(raw)
    pixels, light = composite_packed(samples, sigma, rgb, t, far, settings.background)
    if learns(fields[0]) and not settings.static_shapes:
        model.note_light(fields[0], light, int(occupied.sum()))
    return pixels


class RenderedImage(NamedTuple):
    """One view on the CPU: colour in [0, 1], depth along the camera's axis (or in [0, 1] if ndc), opacity."""

    rgb: Float[Tensor, "height width 3"]
    depth: Float[Tensor, "height width"]
    opacity: Float[Tensor, "height width"]

    @property
    def disparity(self) -> Float[Tensor, "height width"]:
        return 1 / self.depth.clamp(min=1e-6)


@torch.no_grad()
def render_image(
    model: RadianceModel,
    cameras: Cameras,
    view: int,
    near: float,
    far: float,
    settings: RenderSettings,
    ndc: bool = False,
    chunks: Chunks | None = None,
) -> RenderedImage:
    """One camera's whole view, on the model's device in chunks of rays, gathered on the CPU."""
    device = next(model.parameters()).device
    rays = image_rays(cameras.to(device), view, near, far, ndc).map(lambda x: x.flatten(0, 1))

    def render(part: Rays) -> tuple[Tensor, ...]:
        best = render_rays(model, part, settings).best
        return best.rgb, best.depth, best.opacity

    rgb, depth, opacity = (chunks or Chunks(4096)).map(render, rays)
    shape = (cameras.height, cameras.width)
    return RenderedImage(rgb.view(*shape, 3), depth.view(shape), opacity.view(shape))
