"""One run of a study: a field trained by train.py's flags, and what is measured of it. Nothing is written."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from nerf_dfa.errors import UserError
from nerf_dfa.evaluation.metrics import psnr_8bit, to_uint8
from nerf_dfa.nerf.checks import check_read
from nerf_dfa.nerf.collapse import EARLY, RESTARTS, Collapsed, Course, watch
from nerf_dfa.nerf.flags import parse
from nerf_dfa.nerf.model import inference_settings, measured_precision
from nerf_dfa.nerf.options import Options
from nerf_dfa.nerf.outputs import make_studio
from nerf_dfa.nerf.run import load_run_scene, scene_format
from nerf_dfa.nerf.trainer import make_trainer
from nerf_dfa.rendering import RenderedImage
from nerf_dfa.scenes import Scene
from nerf_dfa.scenes.scene import over_background
from nerf_dfa.training import Trainer
from nerf_dfa.training.devices import choose_device

# Of the training views every so many-th is held out where a learning rate is chosen; test views are for the end alone.
HOLD_OUT = 10
ALIGNMENTS = 10  # times that the alignment is measured, evenly over the steps


def run_cell(
    flags: Sequence[str], seed: int, factor: float = 1.0, search_steps: int | None = None
) -> tuple[dict[str, Any], UInt8[np.ndarray, "height width 3"] | None]:
    """Trains by the flags and measures.

    factor: of the learning rates. search_steps: a trial of so many steps, with the schedule shortened to them, on some
    of the training views, whose result is "val_psnr" on the others.

    Returns:
        numbers (psnr: the mean over all test views, from 8-bit pixels, in dB; None if every initialisation collapsed),
        and the first test view; None in a trial, or without a PSNR.
    """
    options, given, _ = parse([*flags, "--seed", str(seed)])
    dataset_type = scene_format(options)
    check_read(options, given, dataset_type)
    device = choose_device(options.device)
    options = with_rates(options, factor)
    if options.precision == "auto":
        options = replace(options, precision=measured_precision(options, device))
    scene = load_run_scene(options, dataset_type)
    if search_steps is not None:
        share = search_steps / options.N_iters
        decay, warmup = options.lrate_decay * share, round(options.lrate_warmup * share)
        options = replace(options, N_iters=search_steps, lrate_decay=decay, lrate_warmup=warmup)
        scene = held_out(scene)
    if not scene.split["train"] or not scene.split["val" if search_steps else "test"]:
        raise UserError(f"{options.datadir}: a study needs training and test views")
    trained = train(options, scene, device)
    if trained is None:
        return {"restarts": RESTARTS, "lrate": options.lrate, "val_psnr" if search_steps else "psnr": None}, None
    trainer, alignment, course = trained
    result: dict[str, Any] = {
        "steps": trainer.finished,
        "seconds": trainer.seconds,
        "restarts": trainer.restarts,
        "lost": course.fall(),
        "uniform": course.collapsed,
        "lrate": options.lrate,
        "precision": options.precision,
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
    }
    if alignment:
        result["alignment"] = alignment
    if search_steps is not None:
        return result | trainer.task.evaluate(trainer.model), None
    scores, first = test_scores(trainer, options, scene)
    return result | scores, first.numpy()


def data_of(flags: Sequence[str]) -> dict[str, Any]:
    """What a cell of these flags learns from, to tell it from other data: its views, their size, their pixels' hash."""
    options = parse(list(flags))[0]
    scene = load_run_scene(options, scene_format(options))
    digest = hashlib.blake2b(digest_size=16)
    for image in scene.images:
        digest.update(np.ascontiguousarray(image.numpy()).data)
    views = {split: len(scene.split[split]) for split in ("train", "test")}
    return {**views, "width": scene.cameras.width, "height": scene.cameras.height, "pixels": digest.hexdigest()}


def with_rates(options: Options, factor: float) -> Options:
    """The options with the network's and the grid's learning rates multiplied."""
    grid = None if options.grid_lrate is None else options.grid_lrate * factor
    return replace(options, lrate=options.lrate * factor, grid_lrate=grid)


def held_out(scene: Scene) -> Scene:
    """The scene with some of its training views for validation, and no others."""
    train = scene.split["train"]
    val = train[HOLD_OUT // 2 :: HOLD_OUT] or train[-1:]
    return replace(scene, split={**scene.split, "train": tuple(i for i in train if i not in val), "val": val})


def train(options: Options, scene: Scene, device: torch.device) -> tuple[Trainer, list[dict[str, Any]], Course] | None:
    """The trained field, begun anew where it collapsed; its alignment over training, if the options want it; and its
    course.

    None: it collapsed every time.
    """
    seconds = 0.0
    for attempt in range(RESTARTS + 1):
        trainer, alignment = make_trainer(options, scene, device, attempt, seconds), []

        def align(step: int, trainer: Trainer = trainer, alignment: list = alignment) -> None:
            layers = trainer.task.alignment(trainer.model).as_dict()
            alignment.append({"step": step, **layers})

        course = watch(trainer, until=EARLY)  # later ones are what the rule has come to
        if options.i_alignment:
            trainer.every(max(1, options.N_iters // ALIGNMENTS), lambda progress: align(progress.step))
        try:
            if not trainer.run(options.N_iters):
                raise KeyboardInterrupt
        except Collapsed:
            seconds = trainer.seconds
            continue
        return trainer, alignment, course
    return None


def test_scores(
    trainer: Trainer, options: Options, scene: Scene
) -> tuple[dict[str, Any], UInt8[Tensor, "height width 3"]]:
    """PSNR in dB over all test views, and the first one: of the best pixels and, with two networks, of NeRF-Dual's."""
    device = next(trainer.model.parameters()).device
    settings = inference_settings(options, device)
    kinds = {"psnr": settings}
    if options.N_importance:
        kinds |= {f"psnr_dual_{kind}": replace(settings, dual=kind) for kind in ("pixels", "raw")}
    scores: dict[str, Any] = {}
    pictures = {}
    for name, kind in kinds.items():
        studio = make_studio(trainer.model, scene, kind, options, lambda text: None)
        views = []
        for number, index in enumerate(scene.split["test"]):
            image: RenderedImage = studio.image(scene.cameras, index)
            truth = to_uint8(over_background(scene.images[index], settings.background == 1))
            views.append(psnr_8bit(to_uint8(image.rgb), truth))
            if number == 0:
                pictures[name] = to_uint8(image.rgb)
        scores[name] = sum(views) / len(views)
        scores["views"] = len(views)
    return scores, pictures["psnr"]
