"""All that a run is made of before its first step: model, task, optimiser, occupancy, joined in the shared trainer."""

from __future__ import annotations

import torch

from nerf_dfa.nerf.collapse import seed_of
from nerf_dfa.nerf.model import (
    build_model,
    codec,
    compile_networks,
    inference_settings,
    mean_colour,
    measured_precision,
    sample_length,
    scene_box,
    training_settings,
)
from nerf_dfa.nerf.optimizer import make_optimizer
from nerf_dfa.nerf.options import Options
from nerf_dfa.nerf.task import NerfTask
from nerf_dfa.scenes import Scene
from nerf_dfa.training.schedules import exponential, rising
from nerf_dfa.training.trainer import Trainer

# The occupancy looks at the density every so many steps: at none in the first steps, when a scene is still fog and what
# is given up as empty would be lost; then at all its cells, and later at a share of them. In a grid of more than
# LOOK_CELLS it looks, after the first time, at no more cells than in one of so many.
LOOK_EVERY, LOOK_AFTER, LOOK_EVERYWHERE, LOOK_SHARE, LOOK_CELLS = 16, 100, 400, 0.25, 64**3


def make_trainer(
    options: Options, scene: Scene, device: torch.device, attempt: int = 0, seconds: float = 0.0
) -> Trainer:
    """Model, task and optimiser of the options, before the first step.

    attempt: how many have collapsed before; seconds: which those took.
    """
    seed = seed_of(options.seed, attempt)
    torch.manual_seed(seed)
    model = build_model(options, scene_box(scene, options.bound))
    if options.output_bias == "mean":
        for field in model.fields.values():
            field.start_at(mean_colour(scene))
    model = model.to(device)
    if options.compile:
        compile_networks(model)
    rays: dict[int, int] = {}  # of a step, by the number of looks that the occupancy has had: it changes with each

    def rays_of_step() -> int:
        if not options.N_points:
            return options.N_rand
        looks = trainer.finished // LOOK_EVERY
        if looks not in rays:  # reading the share makes a GPU wait
            rays.clear()
            rays[looks] = _rays_within(options, 1.0 if model.occupancy is None else model.occupancy.share())
        return rays[looks]

    task = NerfTask(
        scene,
        training_settings(options, device),
        inference_settings(options, device),
        rays_of_step,
        device,
        options.no_batching,
        options.precrop_iters,
        options.precrop_frac,
    )
    trainer = Trainer(
        model,
        task,
        make_optimizer(model, options, seed),
        rising(exponential(options.lrate, options.lrate_decay * 1000), options.lrate_warmup),
        torch.Generator(device).manual_seed(seed),
        measured_precision(options, device) if options.precision == "auto" else options.precision,
        codec(model, scene),
        seconds=seconds,
        restarts=attempt,
    )

    def look() -> None:
        """At which parts of the box are empty: everywhere at first, then here and there."""
        if model.occupancy is not None and trainer.finished > LOOK_AFTER:  # a checkpoint may come without
            share = 1.0 if trainer.finished <= LOOK_EVERYWHERE else LOOK_SHARE
            if trainer.finished > LOOK_AFTER + LOOK_EVERY:
                share *= min(1.0, LOOK_CELLS / model.occupancy.density.numel())
            model.occupancy.update(model.density, sample_length(options, scene), trainer.generator, share)

    if model.occupancy is not None:
        trainer.within(LOOK_EVERY, look)
    trainer.within(LOOK_EVERY, model.settle)
    return trainer


def _rays_within(options: Options, occupied: float) -> int:
    """How many rays' samples in an occupied share of space are about N_points; at most N_rand, at least a sixteenth."""
    samples = (options.N_samples + options.N_importance) * max(occupied, 1e-6)
    return min(options.N_rand, max(round(options.N_points / samples), -(-options.N_rand // 16)))
