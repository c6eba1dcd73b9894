"""Rays per second of training, for both fields under each learning rule, and what a step's time goes to.

    python -m nerf_dfa.benchmarks.train_step [--rules bp dfa dfa-best dkp fdfa shallow] [--mlp CONFIG] [--grid CONFIG]
        [--mlp_rays 256] [--mlp_steps 12] [--mlp_warm 0] [--grid_rays 1024] [--grid_steps 48] [--warm 400]
        [--rounds 3] [--error_kept SHARE] [--compile]
        [--datadir SCENE] [--demo_size 100] [--plain same own] [--precision fp32|bf16|auto] [--threads N]
        [--device cpu|cuda]

A step is the trainer's own. The MLP's settings are the config of --mlp, the paper's (8 layers of 256, coarse and fine,
64 + 128 samples); the grid field's are those of --grid. Without --datadir the scene is the demo. Everything takes
turns in one process, a number of steps at a time: enough for fdfa's probes and for one look of the occupancy.

The grid field is in the midst of its training: --warm steps of the first rule, which all rules then go on from, so
that each evaluates the same samples. Feedback that is estimated is so as often as after 400 steps. The MLP is trained
for --mlp_warm steps; with --error_kept below 1 it has to be, since at first all samples err.

--compile: each rule a second time, as RULE+compile, with its networks through torch.compile.

`plain` is benchmarks.plain_nerf of the MLP's sizes with backpropagation, on as many rays. `same`: it runs in this
process, and profits from the memory that this one keeps; `own`: in a process as Python starts it, as its user would.

Results, for each field and rule:
    plain_time_over         a ray's time in the plain NeRF's step over that in this one's; above 1 is faster
    first_rule_time_over    a step's time under the first of --rules over that under this one
    share_of_matmul_rate    of the MLP: operations of a step, over its time, over the rate of products in its precision
    time_shares             what a step's time goes to, see shares.py; measured apart from the rest; not of RULE+compile
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from nerf_dfa.benchmarks import plain_nerf
from nerf_dfa.benchmarks.measure import in_own_process, interleaved, matrix_products, operations, print_result
from nerf_dfa.benchmarks.shares import time_shares
from nerf_dfa.learning.estimated import EstimatedFeedback
from nerf_dfa.machine import machine
from nerf_dfa.nerf.flags import parse
from nerf_dfa.nerf.model import RULE_PREFIX, compile_networks, measured_precision
from nerf_dfa.nerf.options import Options
from nerf_dfa.nerf.presets import LEARNERS, learning
from nerf_dfa.nerf.run import load_run_scene, scene_format
from nerf_dfa.nerf.task import NerfTask
from nerf_dfa.nerf.trainer import make_trainer
from nerf_dfa.scenes import Scene
from nerf_dfa.scenes.procedural import write_demo
from nerf_dfa.training import Trainer
from nerf_dfa.training.devices import choose_device, keep_freed_memory
from nerf_dfa.training.program import positive

COMPILED = "+compile"  # ends the name of a rule whose networks are compiled
CONFIGS = Path(__file__).parents[2] / "configs"
PLAIN_RAYS = 1 << 16  # rays that the plain NeRF's steps choose from
PLAIN_STEP = 1 << 30  # after any first steps that see only the middle of the images
MATMUL_ROWS = 8192
MIDST = 400  # passes after which feedback probes as often as it does on the mean of some thousand steps


@dataclass(frozen=True)
class Runs:
    """Trainers of one field, by rule, and how many rays and steps of each are measured at a time."""

    trainers: dict[str, Trainer]
    options: Options
    scene: Scene
    rays: int
    steps: int

    def functions(self) -> dict[str, Callable[[], object]]:
        return {rule: partial(advance, trainer, self.steps) for rule, trainer in self.trainers.items()}


def make_runs(
    config: Path, rules: Sequence[str], flags: Sequence[str], rays: int, steps: int, warm: int, device: torch.device
) -> Runs:
    """A trainer for each rule, all after the `warm` steps of the first one."""
    argv = ["--config", str(config), *flags, "--N_rand", str(rays)]
    options = [parse([*argv, *learning(rule.removesuffix(COMPILED))])[0] for rule in rules]
    scene = load_run_scene(options[0], scene_format(options[0]))
    if options[0].precision == "auto":
        precision = measured_precision(options[0], device)
        options = [replace(o, precision=precision) for o in options]
    trainers = {rule: make_trainer(o, scene, device) for rule, o in zip(rules, options, strict=True)}
    first = trainers[rules[0]]
    first.run(warm)
    for rule in rules[1:]:
        go_on_from(first, trainers[rule])
    for trainer in trainers.values():
        for module in trainer.model.modules():
            if isinstance(module, EstimatedFeedback):
                module.passes = MIDST
    return Runs(trainers, options[0], scene, rays, steps)


def go_on_from(source: Trainer, target: Trainer) -> None:
    """Gives the target the source's weights, occupancy and number of steps; what its rule holds stays its own."""
    weights = {k: v for k, v in source.model.state_dict().items() if f".{RULE_PREFIX}" not in k}
    target.model.load_state_dict(weights, strict=False)
    target.finished = source.finished


def advance(trainer: Trainer, steps: int) -> None:
    trainer.run(trainer.finished + steps)


def plain_arguments(runs: Runs, device: torch.device) -> tuple[Any, ...]:
    """What the plain NeRF takes: the sizes of the runs' networks, rays of random pixels, near, far, rays of a step."""
    task = next(iter(runs.trainers.values())).task
    pool = NerfTask(runs.scene, task.training, task.inference, PLAIN_RAYS, device)
    rays, colours = pool.batch(PLAIN_STEP, torch.Generator(device).manual_seed(0))
    options = runs.options
    sizes = (options.netdepth, options.netwidth, options.N_samples, options.N_importance)
    return sizes, rays.origins, rays.directions, colours, runs.scene.near, runs.scene.far, runs.rays


def measure(args: argparse.Namespace, datadir: str, stack: ExitStack) -> dict[str, Any]:
    """All measurements as one JSON-ready object; the stack ends the process that they need."""
    device = choose_device(args.device)
    rules = args.rules + [rule + COMPILED for rule in args.rules if args.compile]
    flags = ["--datadir", datadir, "--dataset_type", "auto", "--precision", args.precision]
    flags += [*([] if args.error_kept is None else ["--error_kept", str(args.error_kept)]), "--field"]
    mlp = make_runs(args.mlp, rules, [*flags, "mlp"], args.mlp_rays, args.mlp_steps, args.mlp_warm, device)
    grid = make_runs(args.grid, rules, [*flags, "grid"], args.grid_rays, args.grid_steps, args.warm, device)

    functions = {("mlp", rule): function for rule, function in mlp.functions().items()}
    functions |= {("grid", rule): function for rule, function in grid.functions().items()}
    plain_args = plain_arguments(mlp, device)
    if "same" in args.plain:
        functions["plain", "same"] = plain_nerf.make_new_step(*plain_args)
    if "own" in args.plain and device.type == "cpu":  # it is the CPU's memory that is kept, or not
        functions["plain", "own"] = stack.enter_context(in_own_process(plain_nerf.make_new_step, *plain_args))
    dtype = torch.bfloat16 if mlp.options.precision == "bf16" else torch.float32
    products = matrix_products(MATMUL_ROWS, mlp.options.netwidth, 32, device, dtype)
    functions["matmul", ""], product_operations = products

    mlp_operations = {rule: operations(function) / mlp.steps for rule, function in mlp.functions().items()}
    for runs in (mlp, grid):
        for rule, trainer in runs.trainers.items():
            if rule.endswith(COMPILED):
                compile_networks(trainer.model)  # not before their operations are counted
    seconds = interleaved(functions, args.rounds)
    rate = product_operations / seconds["matmul", ""]
    plain = {kind: value / mlp.rays for (what, kind), value in seconds.items() if what == "plain"}  # of one ray

    def row(name: str, runs: Runs, rule: str) -> dict[str, Any]:
        step = seconds[name, rule] / runs.steps
        return {
            "step_ms": 1e3 * step,
            "rays_per_second": runs.rays / step,
            "first_rule_time_over": seconds[name, rules[0]] / seconds[name, rule],
            "plain_time_over": {kind: value * runs.rays / step for kind, value in plain.items()},
            # What is compiled cannot be looked into.
            "time_shares": None if rule.endswith(COMPILED) else time_shares(runs.trainers[rule], runs.steps),
        }

    made = {name: {rule: row(name, runs, rule) for rule in rules} for name, runs in (("mlp", mlp), ("grid", grid))}
    for rule, count in mlp_operations.items():
        step = seconds["mlp", rule] / mlp.steps
        made["mlp"][rule] |= {"gflop_a_step": count / 1e9, "share_of_matmul_rate": count / step / rate}
    occupancy = grid.trainers[rules[0]].model.occupancy
    return {
        "benchmark": "train_step",
        "machine": machine(),
        "settings": {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()},
        "matmul_gflops": rate / 1e9,
        "plain_rays_per_second": {kind: 1 / value for kind, value in plain.items()},
        "precision": {"mlp": mlp.options.precision, "grid": grid.options.precision},
        "occupied_share": None if occupancy is None else occupancy.occupied.float().mean().item(),
        **made,
    }


def run(args: argparse.Namespace) -> dict[str, Any]:
    """The same on the scene of --datadir, or on the demo scene, written for the occasion."""
    with ExitStack() as stack:
        if args.datadir is not None:
            return measure(args, args.datadir, stack)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "demo"
        return measure(args, str(write_demo(folder, args.demo_size, train_views=20, val_views=1, test_views=1)), stack)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Rays per second of training by field and learning rule.")
    rules = ["bp", "dfa", "dfa-best", "dkp", "fdfa", "shallow"]
    parser.add_argument("--rules", nargs="+", choices=LEARNERS, default=rules)
    parser.add_argument("--mlp", type=Path, default=CONFIGS / "blender" / "lego.txt", help="config of the MLP field")
    parser.add_argument("--grid", type=Path, default=CONFIGS / "fast" / "lego_100.txt", help="of the grid field")
    parser.add_argument("--mlp_rays", type=int, default=256, help="rays of the MLP's and the plain NeRF's steps")
    parser.add_argument("--mlp_steps", type=int, default=12, help="the MLP's steps at a time")
    parser.add_argument("--mlp_warm", type=int, default=0, help="steps of training before the MLP is measured")
    parser.add_argument("--grid_rays", type=int, default=1024)
    parser.add_argument("--grid_steps", type=int, default=48)
    parser.add_argument("--warm", type=int, default=400, help="steps of training before the grid field is measured")
    parser.add_argument("--rounds", type=positive, default=3, help="times that everything is measured")
    parser.add_argument("--error_kept", type=float, default=None, help="of all rules [1, or the preset's]")
    parser.add_argument("--compile", action="store_true", help="measure all with compiled networks too")
    parser.add_argument("--datadir", default=None, help="a scene's folder [the demo scene]")
    parser.add_argument("--demo_size", type=int, default=100, help="width of the demo scene's images")
    parser.add_argument("--plain", nargs="*", choices=["same", "own"], default=["same", "own"],
                        help="processes in which the plain NeRF runs")  # fmt: skip
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="fp32", help="of this program's steps")
    parser.add_argument("--threads", type=int, default=None, help="threads of torch [all cores]")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    args = parser.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    return print_result("train_step", lambda: run(args))


if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(main())
