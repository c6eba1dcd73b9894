"""Seconds of training until the test views reach a PSNR, under several learning rules.

    python -m nerf_dfa.benchmarks.time_to_quality --config configs/fast/lego_100.txt --datadir SCENE
        [--rules bp dfa dfa-best] [--limit 360] [--interval 5] [--pixels 20000] [--targets 20 22 24 25 26 27 28]
        [--threads N] [any flag of train.py]

Every rule trains a field of its own by the config and the flags for --limit seconds, whatever N_iters says, on the
trainer's clock, which stands still while the field is measured. They take turns, one interval each, so that what else
the machine does falls on all of them. Nothing is written; progress goes to stderr.

The PSNR is that of a fixed random set of pixels of the test views, of all their squared errors together; the mean of
the views' own PSNRs, which reports give, is as a rule a little larger. A target counts as reached at the first
measurement that is not below it; null: never.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from nerf_dfa.benchmarks.measure import print_result
from nerf_dfa.errors import UserError
from nerf_dfa.evaluation.metrics import mse_to_psnr
from nerf_dfa.machine import machine
from nerf_dfa.nerf.checks import check_read, to_text
from nerf_dfa.nerf.flags import parse
from nerf_dfa.nerf.model import measured_precision
from nerf_dfa.nerf.presets import LEARNERS, learning
from nerf_dfa.nerf.run import load_run_scene, scene_format
from nerf_dfa.nerf.task import RayBatch
from nerf_dfa.nerf.trainer import make_trainer
from nerf_dfa.rendering import camera_rays, render_rays
from nerf_dfa.scenes import Scene
from nerf_dfa.scenes.scene import over_background
from nerf_dfa.training import Trainer
from nerf_dfa.training.devices import choose_device, keep_freed_memory

CHUNK = 2048  # rays rendered at once
TARGETS = [20.0, 22.0, 24.0, 25.0, 26.0, 27.0, 28.0]  # dB


@dataclass(frozen=True)
class Point:
    """What the test pixels' PSNR (dB) was after so many seconds and steps of training."""

    seconds: float
    steps: int
    psnr: float


@dataclass
class Contender:
    """A rule's trainer, and its PSNR so far."""

    rule: str
    trainer: Trainer
    curve: list[Point] = field(default_factory=list)

    def reached(self, target: float) -> Point | None:
        """The first measurement that is not below the target."""
        return next((point for point in self.curve if point.psnr >= target), None)


def pixels_of_test_views(scene: Scene, count: int, white: bool, device: torch.device) -> RayBatch:
    """The same random pixels of the test views at each call, with their rays."""
    if not scene.split.get("test"):
        raise UserError(f"{scene.name} has no test views to measure the field on")
    images, cameras, _ = scene.views("test")
    generator = torch.Generator().manual_seed(0)
    view, row, column = (torch.randint(0, n, (count,), generator=generator) for n in images.shape[:3])
    rays = camera_rays(cameras, view, row, column, scene.near, scene.far, scene.ndc)
    colours = over_background(images[view, row, column], white)
    return RayBatch(rays.map(lambda x: x.to(device)), colours.to(device))


@torch.no_grad()
def pixels_psnr(trainer: Trainer, pixels: RayBatch) -> float:
    """PSNR in dB of the trainer's model on the pixels."""
    trainer.model.eval()
    error = 0.0
    for i in range(0, len(pixels.colours), CHUNK):
        rays = pixels.rays.map(lambda x, i=i: x[i : i + CHUNK])
        with torch.autocast(rays.origins.device.type, torch.bfloat16, enabled=trainer.precision == "bf16"):
            rgb = render_rays(trainer.model, rays, trainer.task.inference).best.rgb
        error += float((rgb - pixels.colours[i : i + CHUNK]).square().sum())
    mse = error / pixels.colours.numel()
    return mse_to_psnr(mse) if math.isfinite(mse) else -math.inf  # of a field that has diverged


def train_until(trainer: Trainer, seconds: float) -> bool:
    """Steps until the trainer's clock has reached so many seconds; False if Ctrl-C ended it before.

    In bunches that double, as long as one takes no more than half of what is left: a GPU waits at the end of each.
    """
    bunch = 1
    while (left := seconds - trainer.seconds) > 0:
        if not trainer.run(trainer.finished + bunch):
            return False
        pace = (left - (seconds - trainer.seconds)) / bunch
        fitting = (seconds - trainer.seconds) / max(pace, 1e-9) / 2
        bunch = max(1, min(2 * bunch, int(fitting)))
    return True


def race(contenders: Sequence[Contender], pixels: RayBatch, limit: float, interval: float) -> None:
    """Trains all of them for `limit` seconds each, interval by interval, and measures after each; Ctrl-C ends it."""
    for number in range(1, math.ceil(limit / interval) + 1):
        for contender in contenders:
            trainer = contender.trainer
            if not train_until(trainer, min(number * interval, limit)):
                return
            point = Point(trainer.seconds, trainer.finished, pixels_psnr(trainer, pixels))
            contender.curve.append(point)
            print(
                f"{contender.rule:>8}  {point.seconds:7.1f} s  step {point.steps:6d}  {point.psnr:6.2f} dB",
                file=sys.stderr,
            )


def finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def result_of(contender: Contender, targets: Sequence[float]) -> dict[str, Any]:
    """A rule's row of the result."""
    reached = {f"{target:g}": contender.reached(target) for target in targets}
    last = contender.curve[-1]
    return {
        "seconds_to": {target: point and point.seconds for target, point in reached.items()},
        "steps_to": {target: point and point.steps for target, point in reached.items()},
        "final_psnr": finite(last.psnr),
        "best_psnr": finite(max(point.psnr for point in contender.curve)),
        "seconds": last.seconds,
        "steps": last.steps,
        "ms_a_step": 1e3 * last.seconds / last.steps,
        "curve": [[round(p.seconds, 3), p.steps, finite(p.psnr)] for p in contender.curve],
    }


def run(args: argparse.Namespace, flags: Sequence[str]) -> dict[str, Any]:
    """All measurements as one JSON-ready object. flags: train.py's."""
    for name in ("--learning_rule", "--preset"):
        if any(flag.split("=")[0] == name for flag in flags):
            raise UserError(f"{name} has no effect here: give --rules")
    for name in ("limit", "interval", "pixels"):
        if getattr(args, name) <= 0:
            raise UserError(f"--{name} {getattr(args, name)}: it has to be greater than 0")
    contenders = []
    for rule in args.rules:
        options, given, _ = parse([*flags, *learning(rule)])
        dataset_type = scene_format(options)
        check_read(options, given, dataset_type)
        if not contenders:
            device = choose_device(options.device)
            precision = options.precision if options.precision != "auto" else measured_precision(options, device)
            scene = load_run_scene(options, dataset_type)
            pixels = pixels_of_test_views(scene, args.pixels, options.white_bkgd, device)
        options = replace(options, precision=precision)
        contenders.append(Contender(rule, make_trainer(options, scene, device)))
    race(contenders, pixels, args.limit, args.interval)
    if not all(contender.curve for contender in contenders):
        raise UserError("interrupted before every rule was measured once")
    rows = {contender.rule: result_of(contender, args.targets) for contender in contenders}
    first = rows[args.rules[0]]["seconds_to"]

    def over_first(row: dict[str, Any]) -> dict[str, float | None]:
        seconds = row["seconds_to"]
        return {target: seconds[target] / first[target] if seconds[target] and first[target] else None
                for target in seconds}  # fmt: skip

    return {
        "benchmark": "time_to_quality",
        "machine": machine(),
        "settings": {**vars(args), "flags": list(flags), "device": device.type, "scene": scene.name,
                     "resolution": [scene.cameras.width, scene.cameras.height],
                     "options": to_text(options, dataset_type).splitlines()},
        "rules": rows,
        "seconds_over_first_rule": {rule: over_first(row) for rule, row in rows.items()},
    }  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Seconds of training to a PSNR. Every other flag is train.py's.", allow_abbrev=False
    )
    parser.add_argument("--rules", nargs="+", choices=LEARNERS, default=["bp", "dfa"])
    parser.add_argument("--limit", type=float, default=360.0, help="seconds of training for each rule")
    parser.add_argument("--interval", type=float, default=5.0, help="seconds of training between two measurements")
    parser.add_argument("--pixels", type=int, default=20_000, help="random pixels of the test views")
    parser.add_argument("--targets", type=float, nargs="+", default=TARGETS, help="dB")
    parser.add_argument("--threads", type=int, default=None, help="threads of torch [all cores]")
    args, flags = parser.parse_known_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    return print_result("time_to_quality", lambda: run(args, flags))


if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(main())
