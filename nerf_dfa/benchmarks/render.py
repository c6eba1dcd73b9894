"""Seconds for a frame of a trained run that skips empty space, beside the exhaustive render of the same view.

    python -m nerf_dfa.benchmarks.render RUN [--size 800] [--views 3] [--pixels 0] [--occupancy N] [--N_importance N]
        [--rounds 1] [--datadir SCENE] [--testskip N] [--chunk N] [--precision fp32|bf16|auto] [--step N] [--threads N]
        [--device cpu|cuda]

`skipping` is rendered with the run's own occupancy, or with one made anew by --occupancy, as render.py does, and with
--N_importance fine samples; `exhaustive` without an occupancy, and with all samples. They take turns, view by view, for
--rounds rounds, of which the least time counts. With --pixels both render so many random pixels of a view, and the
seconds for a frame are those of its pixels in proportion; only without are they a whole frame's.

Results for each view and their mean:
    seconds_per_frame       of rays, samples, network and compositing, on the device
    samples_per_ray         points that went through a network, coarse and fine, over the number of rays
    psnr                    in dB against the photograph, in 8 bits; null where the scene has none of this size
    skipping_against_exhaustive     PSNR in dB of the one render against the other, in floats; null where they are equal
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from nerf_dfa.benchmarks.measure import print_result, synchronise
from nerf_dfa.errors import UserError
from nerf_dfa.evaluation.metrics import mse_to_psnr, psnr_8bit, to_uint8
from nerf_dfa.machine import machine
from nerf_dfa.nerf.checks import check, scene_flags
from nerf_dfa.nerf.model import compare_cameras, inference_settings, measured_precision, occupied_anew
from nerf_dfa.nerf.options import Options
from nerf_dfa.nerf.render import check_importance
from nerf_dfa.nerf.run import load_run, load_run_scene, scene_format
from nerf_dfa.rendering import (
    Cameras,
    Chunks,
    OccupancyGrid,
    RadianceModel,
    Rays,
    RenderSettings,
    camera_rays,
    render_rays,
)
from nerf_dfa.scenes import Scene
from nerf_dfa.scenes.scene import over_background
from nerf_dfa.training.devices import choose_device, keep_freed_memory
from nerf_dfa.training.program import positive

WARM_PIXELS = 2048
# Flags that stand in for the run's options.
OVERRIDES = ("datadir", "testskip", "occupancy", "N_importance", "chunk", "precision")


def load_scene_at(
    options: Options, size: int
) -> tuple[Scene, Cameras, UInt8[Tensor, "views height width channels"] | None]:
    """The run's scene, its test cameras at a width of `size` pixels, and their photographs, if it has any so large."""
    dataset_type = scene_format(options)
    if "image_size" in scene_flags(dataset_type):
        try:
            scene = load_run_scene(replace(options, image_size=size, half_res=False), dataset_type)
        except UserError:  # its photographs are smaller
            scene = load_run_scene(options, dataset_type)
    else:
        scene = load_run_scene(options, dataset_type)
    if not scene.split.get("test"):
        raise UserError(f"{options.datadir} has no test views")
    images, cameras, _ = scene.views("test")
    if cameras.width == size:
        return scene, cameras, images
    return scene, cameras.resized(size, round(cameras.height * size / cameras.width)), None


@contextmanager
def counted(model: RadianceModel) -> Iterator[list[int]]:
    """Within it, the list gets the number of points of every pass through one of the model's fields."""
    counts: list[int] = []

    def counting(raw: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
        def counted_raw(positions: Tensor, directions: Tensor) -> Tensor:
            counts.append(positions.numel() // 3)
            return raw(positions, directions)

        return counted_raw

    with ExitStack() as stack:
        for field in model.fields.values():
            stack.enter_context(patch.object(field, "raw", counting(field.raw)))
        yield counts


Way = tuple[OccupancyGrid | None, RenderSettings]  # what tells empty space, and how rays are sampled


class View:
    """A view of a model, in the same pixels with an occupancy and without."""

    def __init__(
        self, model: RadianceModel, scene: Scene, cameras: Cameras, number: int, pixels: int, options: Options
    ) -> None:
        self.model, self.scene, self.number = model, scene, number
        device = next(model.parameters()).device
        self.cameras = cameras.to(device)
        self.chunks, self.bf16 = Chunks(options.chunk), options.precision == "bf16"
        self.total = cameras.width * cameras.height
        generator = torch.Generator().manual_seed(number)
        chosen = torch.randperm(self.total, generator=generator)[: pixels or self.total]
        self.chosen: Int64[Tensor, " n"] = chosen.sort().values.to(device)

    @torch.no_grad()
    def render(self, way: Way, pixels: int | None = None) -> tuple[Tensor, dict[str, float]]:
        """Colours (n, 3) of the chosen pixels, or the first of them, on the CPU; seconds for a frame, samples a ray."""
        occupancy, settings = way
        self.model.occupancy = occupancy
        chosen = self.chosen[:pixels]
        with counted(self.model) as counts:
            synchronise()
            start = time.perf_counter()
            row, column = chosen // self.cameras.width, chosen % self.cameras.width
            view = torch.full_like(row, self.number)
            rays = camera_rays(self.cameras, view, row, column, self.scene.near, self.scene.far, self.scene.ndc)
            (rgb,) = self.chunks.map(partial(self._colours, settings), rays)
            seconds = time.perf_counter() - start
        n = len(chosen)
        return rgb, {"seconds_per_frame": seconds * self.total / n, "samples_per_ray": sum(counts) / n}

    def _colours(self, settings: RenderSettings, rays: Rays) -> tuple[Tensor]:
        with torch.autocast(rays.origins.device.type, torch.bfloat16, enabled=self.bf16):
            return (render_rays(self.model, rays, settings).best.rgb.float(),)

    def compare(
        self, ways: dict[str, Way], photograph: Float[Tensor, "height width 3"] | None, rounds: int
    ) -> dict[str, Any]:
        """The results of the module's head."""
        colours: dict[str, Tensor] = {}
        made: dict[str, Any] = {}
        for way in ways.values():
            self.render(way, WARM_PIXELS)
        for _ in range(rounds):
            for kind, way in ways.items():
                colours[kind], numbers = self.render(way)
                best = made.setdefault(kind, numbers)
                best["seconds_per_frame"] = min(best["seconds_per_frame"], numbers["seconds_per_frame"])
        for kind, rgb in colours.items():
            made[kind]["psnr"] = None if photograph is None else self._psnr(rgb, photograph)
        mse = (colours["skipping"].double() - colours["exhaustive"].double()).square().mean().item()
        made["skipping_against_exhaustive"] = mse_to_psnr(mse) if mse > 0 else None
        return made

    def _psnr(self, rgb: Float[Tensor, "n 3"], photograph: Float[Tensor, "height width 3"]) -> float | None:
        psnr = psnr_8bit(to_uint8(rgb), to_uint8(photograph.flatten(0, 1)[self.chosen.cpu()]))
        return psnr if math.isfinite(psnr) else None


def mean(values: list[float | None]) -> float | None:
    return None if None in values else math.fsum(values) / len(values)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """All measurements as one JSON-ready object."""
    for name, least in (("size", 1), ("views", 1), ("pixels", 0), ("rounds", 1)):
        if getattr(args, name) < least:
            raise UserError(f"--{name} {getattr(args, name)}: expected at least {least}")
    device = choose_device(args.device)
    trained = load_run(Path(args.run), device, args.step)
    given = {name: getattr(args, name) for name in OVERRIDES if getattr(args, name) is not None}
    options = replace(trained.options, **given)
    check(options)
    if args.N_importance is not None:
        check_importance(trained, args.N_importance)
    if options.precision == "auto" or (options.precision == "bf16" and args.precision is None):
        options = replace(options, precision=measured_precision(options, device))  # as render.py does
    scene, cameras, photographs = load_scene_at(options, args.size)
    compare_cameras(trained.poses, scene, trained.folder)
    model, seconds = trained.model, None
    model.eval()
    if args.occupancy is not None:
        start = time.perf_counter()
        model.occupancy = occupied_anew(model, scene, options)
        seconds = time.perf_counter() - start
    occupancy = model.occupancy
    if occupancy is None:
        raise UserError(f"{args.run} has no occupancy; give --occupancy, 128 for example, to make one")

    ways = {
        "skipping": (occupancy, inference_settings(options, device)),
        "exhaustive": (None, inference_settings(trained.options, device)),
    }
    rows = []
    for i in range(min(args.views, len(cameras))):
        number = i * len(cameras) // min(args.views, len(cameras))  # spread over the test views
        view = View(model, scene, cameras, number, args.pixels, options)
        photograph = None if photographs is None else over_background(photographs[number], options.white_bkgd)
        rows.append({"view": number, **view.compare(ways, photograph, args.rounds)})
        print(f"view {number}: {rows[-1]['skipping']['seconds_per_frame']:.2f} s", file=sys.stderr)

    means = {kind: {key: mean([row[kind][key] for row in rows]) for key in rows[0][kind]} for kind in ways}
    means["skipping_against_exhaustive"] = mean([row["skipping_against_exhaustive"] for row in rows])
    skipping, exhaustive = (means[kind] for kind in ways)
    scored = None not in (skipping["psnr"], exhaustive["psnr"])
    lost = exhaustive["psnr"] - skipping["psnr"] if scored else None
    return {
        "benchmark": "render",
        "machine": machine(),
        "settings": {**vars(args), "device": device.type, "scene": scene.name, "step": trained.step,
                     "resolution": [cameras.width, cameras.height], "field": options.field,
                     "samples": [options.N_samples, options.N_importance], "chunk": options.chunk,
                     "precision": options.precision},
        "occupancy": {"resolution": occupancy.resolution, "seconds_to_make": seconds,
                      "occupied_share": occupancy.occupied.float().mean().item()},
        "mean": means,
        "exhaustive_time_over_skipping": exhaustive["seconds_per_frame"] / skipping["seconds_per_frame"],
        "exhaustive_samples_over_skipping": exhaustive["samples_per_ray"] / max(skipping["samples_per_ray"], 1e-9),
        "psnr_lost_by_skipping": lost,
        "per_view": rows,
    }  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Seconds for a frame of a run, with empty space skipped and not.")
    parser.add_argument("run", help="run folder, as train.py made it")
    parser.add_argument("--size", type=int, default=800, help="width of a frame in pixels")
    parser.add_argument("--views", type=int, default=3, help="test views, spread over all")
    parser.add_argument("--pixels", type=int, default=0, help="random pixels of each view; 0: all")
    parser.add_argument("--occupancy", type=int, default=None, help="resolution of one made anew [the run's own]")
    parser.add_argument("--N_importance", type=int, default=None, help="fine samples where it skips [the run's]")
    parser.add_argument("--rounds", type=positive, default=1, help="times that each view is rendered")
    parser.add_argument("--datadir", default=None, help="the scene's folder, if it has moved")
    parser.add_argument("--testskip", type=int, default=None, help="load every Nth test view [the run's]")
    parser.add_argument("--chunk", type=positive, default=None, help="rays at once [the run's]")
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default=None, help="[as render.py's]")
    parser.add_argument("--step", type=int, default=None, help="checkpoint of this step [the last]")
    parser.add_argument("--threads", type=int, default=None, help="threads of torch [all cores]")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    args = parser.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    return print_result("render", lambda: run(args))


if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(main())
