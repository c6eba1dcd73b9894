"""How a training step's cost grows with rays, samples, width, number of images and resolution, each varied alone.

    python -m nerf_dfa.benchmarks.scaling [--field mlp|grid] [--rule dfa] [--rays 128 256 512 1024]
        [--samples 16 32 64 128] [--width 64 128 256] [--images 10 40 160] [--size 50 100 200 400] [--steps 4]
        [--rounds 3] [--precision fp32|bf16] [--threads N] [--device cpu|cuda]

The base of each is its second value (of one value, that). `mlp` is a coarse network of 8 layers, `grid` four grids up
to 96^3 with a small network; neither has an occupancy, so that every sample is evaluated. The scene is a ball, whose
photographs are computed by a formula. All take turns in one process, --steps steps at a time. Prints one JSON object:
for each quantity its values, milliseconds of a step, a step's time over the base's, and the slope of log time against
log value: 1 where cost is proportional, 0 where it does not depend on it.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from nerf_dfa.benchmarks.measure import interleaved, loglog_slope, print_result
from nerf_dfa.errors import UserError
from nerf_dfa.learning import RULES
from nerf_dfa.machine import machine
from nerf_dfa.nerf.checks import check
from nerf_dfa.nerf.options import Options
from nerf_dfa.nerf.trainer import make_trainer
from nerf_dfa.rendering import Cameras, image_rays
from nerf_dfa.scenes import Scene
from nerf_dfa.scenes.procedural import CAMERA_ANGLE_X, CAMERA_RADIUS, FAR, NEAR, spiral_poses
from nerf_dfa.training.devices import choose_device, keep_freed_memory
from nerf_dfa.training.program import positive

VALUES = {
    "rays": (128, 256, 512, 1024),
    "samples": (16, 32, 64, 128),
    "width": (64, 128, 256),
    "images": (10, 40, 160),
    "size": (50, 100, 200, 400),
}
GRID = {"field": "grid", "grid_max": 96, "grid_levels": 4, "multires_views": 2, "bound": 1.3, "occupancy": 0}


def ball_scene(views: int, size: int, radius: float = 1.0) -> Scene:
    """A ball around the origin, coloured by its normal, in front of nothing, in photographs of size x size."""
    focal = size / 2 / math.tan(CAMERA_ANGLE_X / 2)
    intrinsics = torch.tensor([focal, focal, size / 2, size / 2]).expand(views, 4)
    cameras = Cameras(spiral_poses(views, 0.0), intrinsics, size, size)
    images = torch.stack([_photograph(cameras, view, radius) for view in range(views)])
    names = tuple(f"{view}.png" for view in range(views))
    return Scene("ball", images, cameras, names, {"train": tuple(range(views)), "val": (), "test": ()}, NEAR, FAR)


def _photograph(cameras: Cameras, view: int, radius: float) -> Tensor:
    """RGBA in 8 bits: where the ray o + t v first has length `radius`, with unit v: t = -o v - sqrt(...)."""
    rays = image_rays(cameras, view, NEAR, FAR)
    along = (rays.origins * rays.viewdirs).sum(-1)
    beneath = along.square() - CAMERA_RADIUS**2 + radius**2
    t = -along - beneath.clamp(min=0).sqrt()
    normal = (rays.origins + t[..., None] * rays.viewdirs) / radius
    rgba = torch.cat([(normal + 1) / 2, (beneath > 0).float()[..., None]], dim=-1)
    return (rgba.clamp(0, 1) * 255).round().to(torch.uint8)


def make_options(field: str, rule: str, rays: int, samples: int, width: int, precision: str) -> Options:
    sizes: dict[str, Any] = {**GRID, "grid_width": width} if field == "grid" else {"netwidth": width}
    if field == "mlp":
        sizes["use_viewdirs"] = True
    options = Options(learning_rule=rule, N_rand=rays, N_samples=samples, white_bkgd=True, precision=precision, **sizes)
    check(options)
    return options


def settings_to_measure(values: dict[str, Sequence[int]]) -> tuple[dict[str, int], dict[tuple[str, int], dict]]:
    """The base, and for each quantity and value the base with it in place of its own."""
    base = {name: numbers[min(1, len(numbers) - 1)] for name, numbers in values.items()}
    return base, {(name, n): {**base, name: n} for name, numbers in values.items() for n in numbers}


def run(args: argparse.Namespace) -> dict[str, Any]:
    """All measurements as one JSON-ready object."""
    device = choose_device(args.device)
    values = {name: getattr(args, name) for name in VALUES}
    for name, numbers in values.items():
        if min(numbers) < 1:
            raise UserError(f"--{name} {min(numbers)}: expected at least 1")
    base, settings = settings_to_measure(values)
    scenes: dict[tuple[int, int], Scene] = {}
    functions: dict[tuple[str, int], Callable[[], object]] = {}
    for key, chosen in settings.items():
        place = chosen["images"], chosen["size"]
        scenes.setdefault(place, ball_scene(*place))
        sizes = {name: chosen[name] for name in ("rays", "samples", "width")}
        options = make_options(args.field, args.rule, precision=args.precision, **sizes)
        functions[key] = partial(_steps, make_trainer(options, scenes[place], device), args.steps)
    seconds = interleaved(functions, args.rounds)
    scaling = {}
    for name, numbers in values.items():
        steps = [seconds[name, n] / args.steps for n in numbers]
        of_base = seconds[name, base[name]] / args.steps
        scaling[name] = {
            "values": list(numbers),
            "step_ms": [1e3 * step for step in steps],
            "over_base": [step / of_base for step in steps],
            "loglog_slope": loglog_slope(numbers, steps) if len(set(numbers)) > 1 else None,
        }
    return {
        "benchmark": "scaling",
        "machine": machine(),
        "settings": {"field": args.field, "rule": args.rule, "steps": args.steps, "rounds": args.rounds,
                     "device": device.type, "precision": args.precision, "base": base},
        "scaling": scaling,
    }  # fmt: skip


def _steps(trainer: Any, steps: int) -> None:
    trainer.run(trainer.finished + steps)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Cost of a training step against what it depends on.")
    parser.add_argument("--field", choices=["mlp", "grid"], default="mlp")
    parser.add_argument("--rule", choices=list(RULES), default="dfa")
    for name, numbers in VALUES.items():
        parser.add_argument(f"--{name}", type=int, nargs="+", default=list(numbers), help=f"[{numbers}]")
    parser.add_argument("--steps", type=int, default=4, help="steps at a time")
    parser.add_argument("--rounds", type=positive, default=3, help="times that each is measured")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--threads", type=int, default=None, help="threads of torch [all cores]")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    args = parser.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    return print_result("scaling", lambda: run(args))


if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(main())
