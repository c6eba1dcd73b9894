"""PSNR of a run on random pixels of its test views: the coarse network, the fine one, and both (NeRF-Dual).

    python -m nerf_dfa.interop.measure RUN [--datadir SCENE] [--pixels 3000] [--testskip 25] [--dual pixels|raw]

Prints one JSON object. A view's PSNR is that of its pixels in 8 bits, the run's the mean over the views.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from nerf_dfa.errors import UserError, plain_cautions
from nerf_dfa.evaluation.metrics import psnr_8bit, to_uint8
from nerf_dfa.interop.import_checkpoint import Parser
from nerf_dfa.nerf.checks import check
from nerf_dfa.nerf.model import compare_cameras, inference_settings
from nerf_dfa.nerf.options import Options
from nerf_dfa.nerf.run import load_run, load_run_scene, scene_format
from nerf_dfa.rendering import Cameras, Chunks, RadianceModel, Rays, RenderSettings, camera_rays, render_rays
from nerf_dfa.scenes import Scene
from nerf_dfa.scenes.scene import over_background
from nerf_dfa.training.devices import choose_device


@plain_cautions("measure")
def main(argv: list[str] | None = None) -> int:
    """Runs the program; returns its exit status: 0, or 2 for a user's mistake (one line)."""
    parser = Parser(prog="measure", description="PSNR of a run on random pixels of its test views.")
    parser.add_argument("run", help="run folder")
    parser.add_argument("--datadir", help="the scene's folder, if it has moved")
    parser.add_argument("--pixels", type=int, default=3000, help="random pixels of each view; 0: all")
    parser.add_argument("--testskip", type=int, default=1, help="every Nth test view")
    parser.add_argument("--dual", choices=["pixels", "raw"], default="pixels", help="what NeRF-Dual averages")
    parser.add_argument("--seed", type=int, default=0, help="of the pixels")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    try:
        args = parser.parse_args(argv)
        for name, least in (("pixels", 0), ("testskip", 1)):
            if getattr(args, name) < least:
                raise UserError(f"--{name} {getattr(args, name)}: expected at least {least}")
        result = measure(Path(args.run), args.datadir, args.pixels, args.testskip, args.dual, args.seed, args.device)
    except UserError as error:
        print(f"measure: error: {error}", file=sys.stderr)
        return 2
    json.dump(result, sys.stdout, indent=2)
    print()
    return 0


def measure(
    folder: Path,
    datadir: str | None = None,
    pixels: int = 3000,
    testskip: int = 1,
    dual: str = "pixels",
    seed: int = 0,
    device: str = "auto",
) -> dict[str, Any]:
    """Mean PSNR in dB of the run's networks, and that of each view, as one JSON-ready object.

    pixels: random ones of each view, without repetition; 0 takes all. testskip: every Nth test view.
    """
    where = choose_device(device)
    trained = load_run(folder, where)
    options = trained.options if datadir is None else replace(trained.options, datadir=datadir)
    scene = _scene(options, testskip)
    compare_cameras(trained.poses, scene, folder)
    images, cameras, names = scene.views("test")
    settings = inference_settings(options, where)
    chunks = Chunks(options.chunk)
    generator = torch.Generator().manual_seed(seed)
    total = cameras.width * cameras.height
    views = []
    for view, name in enumerate(names):
        chosen = torch.randperm(total, generator=generator)[: pixels or total].sort().values
        colours = _colours(trained.model, settings, dual, scene, cameras.to(where), view, chosen.to(where), chunks)
        photograph = images[view].flatten(0, 1)[chosen]
        truth = to_uint8(over_background(photograph, settings.background == 1))
        scores = {key: psnr_8bit(to_uint8(colour), truth) for key, colour in colours.items()}
        views.append({"name": name, **scores})
    return {
        "run": str(folder),
        "scene": scene.name,
        "step": trained.step,
        "resolution": [cameras.width, cameras.height],
        "views": len(views),
        "pixels_per_view": min(pixels or total, total),
        "dual_averages": dual,
        "psnr": {key: sum(view[key] for view in views) / len(views) for key in scores},
        "per_view": views,
    }


def _scene(options: Options, testskip: int) -> Scene:
    """The run's scene with every Nth of its test views; the others are not loaded where the format can leave them."""
    check(options)
    dataset_type = scene_format(options)
    scene = load_run_scene(replace(options, testskip=testskip), dataset_type)
    if not scene.split.get("test"):
        raise UserError(f"{options.datadir} has no test views")
    return scene


@torch.no_grad()
def _colours(
    model: RadianceModel,
    settings: RenderSettings,
    dual: str,
    scene: Scene,
    cameras: Cameras,
    view: int,
    chosen: Int64[Tensor, " n"],
    chunks: Chunks,
) -> dict[str, Float[Tensor, "n 3"]]:
    """Colours of the chosen pixels (row * width + column) by the coarse network, the fine one, and both."""
    row, column = chosen // cameras.width, chosen % cameras.width
    rays = camera_rays(cameras, torch.full_like(row, view), row, column, scene.near, scene.far, scene.ndc)

    def render(part: Rays) -> tuple[Tensor, ...]:
        alone = render_rays(model, part, replace(settings, dual="none"))
        if alone.fine is None:
            return (alone.coarse.rgb,)
        both = render_rays(model, part, replace(settings, dual=dual)).best
        return alone.coarse.rgb, alone.fine.rgb, both.rgb

    return dict(zip(("coarse", "fine", "dual"), chunks.map(render, rays), strict=False))


if __name__ == "__main__":
    sys.exit(main())
