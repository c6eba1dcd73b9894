"""Learning a radiance field from photographs, as a Task of the shared trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from nerf_dfa.learning.alignment import Alignment, measure_alignment
from nerf_dfa.learning.rules import TargetProjection
from nerf_dfa.learning.tapes import Aimed
from nerf_dfa.nerf.model import uncompiled
from nerf_dfa.rendering import RadianceModel, Rays, RenderSettings, camera_rays, render_rays
from nerf_dfa.scenes.scene import Scene, over_background

VALIDATION_PIXELS = 4096
ALIGNMENT_RAYS = 256


def psnr(mse: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Peak signal-to-noise ratio in dB of colours in [0, 1], left on the device."""
    return -10 * mse.log10()


class RayBatch(NamedTuple):
    """Rays and the colours in [0, 1] that they should have."""

    rays: Rays
    colours: Float[Tensor, "rays 3"]


class NerfTask:
    """Batches of random pixels' rays, and the loss of the NeRF paper.

    Images stay 8-bit where the scene has them, in memory or mapped from a file; only the pixels of a batch become rays.
    Pixels are drawn with replacement. rays_per_step: their number, asked for at every step where it changes.
    """

    def __init__(
        self,
        scene: Scene,
        training: RenderSettings,
        inference: RenderSettings,
        rays_per_step: int | Callable[[], int],
        device: torch.device,
        one_image: bool = False,
        precrop_steps: int = 0,
        precrop_fraction: float = 0.5,
    ) -> None:
        self.scene = scene
        # All of them, because a split's would be a copy, and a large scene's images lie in a file.
        self.images, self.cameras = scene.images.to(device), scene.cameras.to(device)
        self.views = torch.tensor(scene.split["train"], device=device)
        self.training, self.inference = training, inference
        self.rays_per_step = rays_per_step if callable(rays_per_step) else lambda: rays_per_step
        self.rays_drawn = 0
        self.one_image = one_image
        self.precrop_steps, self.precrop_fraction = precrop_steps, precrop_fraction
        self._validation = self._validation_batch() if scene.split.get("val") else None

    def batch(self, step: int, generator: torch.Generator) -> RayBatch:
        """Random pixels of random images, or of one; of the images' middle in the first precrop steps."""
        fraction = self.precrop_fraction if step <= self.precrop_steps else 1.0
        n, device = self.rays_per_step(), self.images.device
        self.rays_drawn += n
        height, width = self.images.shape[1:3]

        def draw(low: int, high: int, count: int) -> Tensor:
            return torch.randint(low, high, (count,), generator=generator, device=device)

        view = draw(0, len(self.views), 1).expand(n) if self.one_image else draw(0, len(self.views), n)
        row, column = draw(*_middle(height, fraction), n), draw(*_middle(width, fraction), n)
        return self._pixels(self.views[view], row, column)

    def _pixels(self, view: Tensor, row: Tensor, column: Tensor) -> RayBatch:
        rays = camera_rays(self.cameras, view, row, column, self.scene.near, self.scene.far, self.scene.ndc)
        colours = over_background(self.images[view, row, column], white=self.training.background == 1)
        return RayBatch(rays, colours)

    def loss(
        self, model: RadianceModel, batch: RayBatch, generator: torch.Generator | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Squared error of the coarse plus that of the fine pixels (equation 6); shown: the best one's PSNR.

        Shown too: the contrast, the standard deviation of the pixels' colours over that of the photographs', of the
        network where it is less.
        """
        with _aiming(model) as aimed:
            rendered = render_rays(model, batch.rays, self.training, generator)
        for name, passes in aimed.items():
            _aim(passes, getattr(rendered, name).rgb, batch.colours)
        least = torch.stack([_variance(pixels.rgb.detach()) for pixels in rendered if pixels is not None]).amin()
        contrast = (least / _variance(batch.colours)).sqrt()
        coarse = (rendered.coarse.rgb - batch.colours).square().mean()
        if rendered.fine is None:
            return coarse, {"psnr": psnr(coarse.detach()), "contrast": contrast}
        fine = (rendered.fine.rgb - batch.colours).square().mean()
        shown = {"psnr": psnr(fine.detach()), "psnr_coarse": psnr(coarse.detach()), "contrast": contrast}
        return coarse + fine, shown

    def alignment(self, model: RadianceModel) -> Alignment:
        """Of the model's feedback, on fixed rays of the validation (else training) views and fixed samples."""
        device = self.images.device
        batch = self._validation
        if batch is None:
            batch = self.batch(self.precrop_steps + 1, torch.Generator(device).manual_seed(0))
        n = ALIGNMENT_RAYS
        batch = RayBatch(batch.rays.map(lambda x: x[:n]), batch.colours[:n])
        model.eval()
        with uncompiled(model):
            return measure_alignment(model, lambda: self.loss(model, batch, None)[0])

    @torch.no_grad()
    def evaluate(self, model: RadianceModel) -> dict[str, float]:
        """PSNR over a fixed random set of pixels of the validation views; nothing without such views."""
        if self._validation is None:
            return {}
        model.eval()
        error, (rays, colours) = 0.0, self._validation
        for i in range(0, colours.shape[0], 1024):
            part = rays.map(lambda x, i=i: x[i : i + 1024])
            rgb = render_rays(model, part, self.inference).best.rgb
            error += float((rgb - colours[i : i + 1024]).square().sum())
        return {"val_psnr": float(psnr(torch.tensor(error / colours.numel())))}

    def _validation_batch(self) -> RayBatch:
        generator = torch.Generator().manual_seed(0)
        views = torch.tensor(self.scene.split["val"])
        sizes = (len(views), *self.images.shape[1:3])
        view, row, column = (torch.randint(0, n, (VALIDATION_PIXELS,), generator=generator) for n in sizes)
        device = self.images.device
        return self._pixels(views[view].to(device), row.to(device), column.to(device))


@contextmanager
def _aiming(model: RadianceModel) -> Iterator[dict[str, list[tuple[Aimed, Tensor]]]]:
    """The passes within, with their outputs (n, 4), of each field whose rule is drtp; those have yet to be aimed."""
    with ExitStack() as stack:
        rules = {name: field.rule for name, field in model.fields.items()}
        yield {
            name: stack.enter_context(rule.aiming())
            for name, rule in rules.items()
            if isinstance(rule, TargetProjection)
        }


def _aim(passes: list[tuple[Aimed, Tensor]], rgb: Float[Tensor, "rays 3"], colours: Float[Tensor, "rays 3"]) -> None:
    """Tells the passes of a field whose rule is drtp, and which made these pixels, their targets.

    A ray's samples have no targets; its pixel has, and the renderer takes them to the samples as it does the error:
    with the mean m of the batch's colours in place of the pixel, the error 2 (m - c) / N of its N numbers is known
    before there is any output. (A class is coded by 0 and 1, and that it is the target says the sign of its error; a
    colour alone does not.) It is the error of a field that is fog of that colour, as new fields are, and never becomes
    less.
    """
    error = (colours.mean(0) - colours) * (2 / colours.numel())
    found = torch.autograd.grad(rgb, [y for _, y in passes], error, retain_graph=True) if passes else ()
    for (tape, y), signal in zip(passes, found, strict=True):
        tape.targets = -signal * (y.numel() // y.shape[-1])  # a rule's targets are divided by the rows


def _variance(colours: Float[Tensor, "rays 3"]) -> Float[Tensor, ""]:
    return colours.var(0, correction=0).mean()


def _middle(size: int, fraction: float) -> tuple[int, int]:
    """First pixel, and the one after the last, of the middle `fraction` of `size` pixels."""
    half = max(1, int(size // 2 * fraction))
    return (0, size) if fraction == 1 else (size // 2 - half, size // 2 + half)
