"""The program train.py: a scene in, a trained field, its views, video and report out."""

from __future__ import annotations

import math
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import torch
from tqdm import tqdm

from nerf_dfa.errors import UserError, plain_cautions
from nerf_dfa.evaluation.metrics import to_uint8
from nerf_dfa.machine import out_of_memory
from nerf_dfa.nerf.checks import check_read
from nerf_dfa.nerf.collapse import EARLY, RESTARTS, Collapsed, watch
from nerf_dfa.nerf.flags import parse
from nerf_dfa.nerf.model import inference_settings, occupied_anew
from nerf_dfa.nerf.options import Options
from nerf_dfa.nerf.outputs import Studio, make_studio, render_path, render_test_set, write_report
from nerf_dfa.nerf.run import (
    alone_in,
    as_in_nerf_pytorch,
    check_continues,
    check_kept,
    load_run_scene,
    put_aside,
    run_folder,
    scene_format,
    settle_precision,
    write_args,
)
from nerf_dfa.nerf.trainer import make_trainer
from nerf_dfa.scenes import Scene
from nerf_dfa.training.checkpoints import list_checkpoints
from nerf_dfa.training.devices import choose_device
from nerf_dfa.training.program import INTERRUPTED
from nerf_dfa.training.trainer import Progress, Trainer

PREVIEW_WIDTH = 100  # of the validation image in TensorBoard, in pixels
SHOW_SECONDS = 0.25  # between two updates of the bar


@plain_cautions("train.py")
def main(argv: list[str] | None = None, default_config: Path | None = None) -> int:
    """Runs the program; returns its exit status: 0, 2 for a user's mistake (one line), 130 when interrupted."""
    try:
        return run(sys.argv[1:] if argv is None else argv, default_config)
    except UserError as error:
        print(f"train.py: error: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        print("train.py: error: out of memory: give less --N_rand, --netchunk, --chunk or --occupancy", file=sys.stderr)
        return 2
    except OSError as error:  # of reading, each is a UserError
        what = error.filename or "the run"
        print(f"train.py: error: cannot write {what}: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # outside the training loop, which ends by itself; mostly in the final renders
        print("train.py: interrupted; what is on the disk is whole, and the same command goes on", file=sys.stderr)
        return INTERRUPTED


def run(argv: list[str], default_config: Path | None) -> int:
    start = time.perf_counter()
    options, given, config = parse(argv, default_config)
    device = choose_device(options.device)
    options, note = as_in_nerf_pytorch(options, given)
    if note:
        tqdm.write(note)
    folder = run_folder(options)
    dataset_type = scene_format(options)
    check_read(options, given, dataset_type)
    options = settle_precision(options, device)
    check_kept(options, dataset_type)
    check_continues(folder, options)
    scene = load_run_scene(options, dataset_type)
    _check_scene(options, scene)
    with nullcontext() if options.render_only else alone_in(folder):
        status = _run_on(scene, options, folder, dataset_type, config, device)
    if status == 0 and not options.render_only:
        tqdm.write(f"{'all in':>12}  {time.perf_counter() - start:.0f} s")
    return status


def _run_on(
    scene: Scene, options: Options, folder: Path, dataset_type: str, config: Path | None, device: torch.device
) -> int:
    """Trains as far as the options say and reports, or only renders; returns the exit status."""
    say = tqdm.write

    def studio_of(trainer: Trainer) -> Studio:
        return make_studio(trainer.model, scene, inference_settings(options, device), options, say)

    trainer = make_trainer(options, scene, device)
    _continue(trainer, scene, options, folder)
    if options.render_only:
        split = "test" if options.render_test else None
        return _render_only(trainer, studio_of(trainer), options, folder, dataset_type, split)

    write_args(folder, options, dataset_type, config)
    say(_headline(options, scene, trainer, device))
    while True:
        studio = studio_of(trainer)
        try:
            completed = train(trainer, studio, options, folder, dataset_type)
            break
        except Collapsed as collapse:
            if collapse.step > EARLY:  # not at the start: nobody wants what has been learned thrown away
                raise UserError(f"{collapse}; lower --lrate, and go on from what {folder} holds or anew") from None
            if options.ft_path is not None:
                raise UserError(f"{collapse}, having begun from {options.ft_path}; try a lower --lrate") from None
            attempt = trainer.restarts + 1
            if attempt > RESTARTS:
                raise UserError(
                    f"{collapse}, as after {RESTARTS} other initialisations: try --density_activation softplus, "
                    "--output_bias mean or a smaller --lrate"
                ) from None
            say(f"{collapse}; starting anew from another initialisation, number {attempt} of at most {RESTARTS}")
            for path in list_checkpoints(folder):  # of the collapsed field, from which no run should go on
                path.unlink()
            trainer = make_trainer(options, scene, device, attempt, trainer.seconds)
    path = trainer.save(folder)
    if not completed:
        say(f"stopped at step {trainer.finished}, saved as {path}; the same command goes on from there")
        return INTERRUPTED
    results = {"checkpoint": path, **finish(trainer, studio, options, folder, dataset_type)}
    for name, value in results.items():
        say(f"{name:>12}  {value}")
    return 0


def train(trainer: Trainer, studio: Studio, options: Options, folder: Path, dataset_type: str) -> bool:
    """The training loop with its bar, logs, checkpoints and renders; False if it was interrupted."""
    if trainer.finished >= options.N_iters:
        return True
    from torch.utils.tensorboard import SummaryWriter  # takes a second to import

    with (
        SummaryWriter(str(folder), purge_step=trainer.finished + 1) as writer,
        tqdm(total=options.N_iters, initial=trainer.finished, unit="step", dynamic_ncols=True) as bar,
    ):
        begin, before = time.perf_counter(), trainer.seconds
        shown = begin

        def show(progress: Progress) -> None:
            nonlocal shown
            if time.perf_counter() - shown < SHOW_SECONDS:  # reading the PSNR makes a GPU wait
                return
            trainer.wait()
            shown = time.perf_counter()
            rate = trainer.task.rays_drawn / (shown - begin)
            bar.set_postfix_str(f"PSNR {float(progress.scalars['psnr']):.2f} dB, {rate:,.0f} rays/s", refresh=False)
            bar.update(progress.step - bar.n)

        def log(progress: Progress) -> None:
            for name, value in progress.numbers().items():
                writer.add_scalar(name, value, progress.step)
            writer.add_scalar("learning_rate", trainer.schedule(progress.step), progress.step)
            writer.add_scalar("rays_per_second", trainer.task.rays_drawn / (progress.seconds - before), progress.step)

        def preview(progress: Progress) -> None:
            for name, value in trainer.task.evaluate(trainer.model).items():
                writer.add_scalar(name, value, progress.step)
            writer.add_image("view", _preview(studio), progress.step, dataformats="HWC")

        course = watch(trainer)
        trainer.every(1, show)
        trainer.every(options.i_print, log)
        trainer.every(options.i_img, preview)

        def align(progress: Progress) -> None:
            for name, value in trainer.task.alignment(trainer.model).scalars().items():
                if math.isfinite(value):
                    writer.add_scalar(name, value, progress.step)

        trainer.every(options.i_alignment, align)
        trainer.every(options.i_weights, lambda _: trainer.save(folder))
        trainer.every(options.i_testset, lambda _: _test_set(trainer, studio, options, folder, dataset_type))
        trainer.every(options.i_video, lambda _: _video(trainer, studio, options, folder))
        completed = trainer.run(options.N_iters)
        bar.update(trainer.finished - bar.n)
    if lost := course.fall():
        tqdm.write(
            f"warning: the training rays' PSNR is {lost:.1f} dB below the {course.best:.1f} dB that it had at step "
            f"{course.best_step}: a lower --lrate may keep what was learned"
        )
    return completed


def finish(
    trainer: Trainer, studio: Studio, options: Options, folder: Path, dataset_type: str
) -> dict[str, str | Path]:
    """Test views, report and video of the trained field; what was made and where, in words."""
    made: dict[str, str | Path] = {}
    if studio.scene.split.get("test"):
        scores = _test_set(trainer, studio, options, folder, dataset_type)
        made["test views"] = _test_folder(folder, trainer.finished)
        made["report"] = folder / "metrics.json"
        made["test PSNR"] = f"{scores['psnr']:.2f} dB over {scores['views']} views, SSIM {_number(scores['ssim'])}"
        lpips = scores.get("lpips_unavailable")
        made["LPIPS"] = f"unavailable: {lpips}" if lpips else _number(scores["lpips"])
    made["video"] = _video(trainer, studio, options, folder)[0]
    return made


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _test_folder(folder: Path, step: int) -> Path:
    return folder / f"testset_{step:06d}"


def _test_set(trainer: Trainer, studio: Studio, options: Options, folder: Path, dataset_type: str) -> dict:
    """Renders and scores the test views, and writes metrics.json; nothing for a scene without them."""
    if not studio.scene.split.get("test"):
        return {}
    scores = render_test_set(studio, _test_folder(folder, trainer.finished))
    if options.i_alignment:
        scores["alignment"] = trainer.task.alignment(trainer.model).as_dict()
    write_report(
        folder / "metrics.json",
        scores,
        options,
        studio.scene,
        dataset_type,
        trainer.model,
        trainer.finished,
        trainer.seconds,
        trainer.restarts,
    )
    return scores


def _video(trainer: Trainer, studio: Studio, options: Options, folder: Path) -> list[Path]:
    return render_path(studio, folder, options, options.path, trainer.finished, tqdm.write)


def _preview(studio: Studio) -> torch.Tensor:
    """A small rendering of the first validation (else training) view, 8-bit."""
    scene = studio.scene
    cameras = scene.cameras[scene.split["val" if scene.split.get("val") else "train"][0]]
    scale = min(1.0, PREVIEW_WIDTH / cameras.width)
    cameras = cameras.resized(round(cameras.width * scale), max(1, round(cameras.height * scale)))
    return to_uint8(studio.image(cameras, 0).rgb)


def _continue(trainer: Trainer, scene: Scene, options: Options, folder: Path) -> None:
    """Loads the run's last checkpoint, else ft_path; with no_reload puts aside what the run folder holds."""
    anew = options.no_reload and not options.render_only
    checkpoints = [] if anew else list_checkpoints(folder)
    if checkpoints:
        trainer.load(checkpoints[-1])
    elif options.ft_path is not None:
        if not trainer.load(Path(options.ft_path), of_any_rule=True):
            tqdm.write(f"{options.ft_path}: its optimiser has other parameters; the optimiser begins anew")
        if trainer.finished >= options.N_iters and not options.render_only:
            raise UserError(
                f"--N_iters {options.N_iters}: {options.ft_path} is of step {trainer.finished}, from which steps are "
                "counted; give more, or --render_only"
            )
    elif options.render_only:
        raise UserError(f"--render_only: {folder} has no checkpoint yet; train first, or give --ft_path")
    if trainer.model.occupancy is None:  # the checkpoint has none
        trainer.model.occupancy = occupied_anew(trainer.model, scene, options)
    old = put_aside(folder) if anew else None  # now that nothing can be wrong with what was asked for
    if old is not None:
        tqdm.write(f"--no_reload: what {folder} held is now in {old}")


def _render_only(
    trainer: Trainer, studio: Studio, options: Options, folder: Path, dataset_type: str, split: str | None
) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    if split == "test":
        scores = _test_set(trainer, studio, options, folder, dataset_type)
        print(f"{_test_folder(folder, trainer.finished)}: PSNR {scores['psnr']:.2f} dB over {scores['views']} views")
    else:
        for path in _video(trainer, studio, options, folder):
            print(path)
    return 0


def _check_scene(options: Options, scene: Scene) -> None:
    if not scene.split["train"]:
        raise UserError(f"{options.datadir}: no training view is left")
    if options.render_test and not scene.split.get("test"):
        raise UserError(f"--render_test: {options.datadir} has no test views")
    if options.path == "test" and not scene.split.get("test"):
        raise UserError(f"--path test: {options.datadir} has no test views")
    if options.bound is not None and scene.ndc:
        raise UserError("--bound has no effect here: normalised device coordinates have their own box; leave it out")
    if options.lindisp and scene.near <= 0:
        raise UserError(f"--lindisp needs a scene whose near is above 0, and {options.datadir} has {scene.near}")
    if scene.near >= scene.far:
        raise UserError(f"{options.datadir}: near {scene.near} is not less than far {scene.far}; give --near and --far")


def _headline(options: Options, scene: Scene, trainer: Trainer, device: torch.device) -> str:
    parameters = sum(p.numel() for p in trainer.model.parameters())
    views = ", ".join(f"{len(index)} {name}" for name, index in scene.split.items() if index)
    start = f", from step {trainer.finished}" if trainer.finished else ""
    return (
        f"{options.expname}: {scene.name} ({views} views of {scene.cameras.width}x{scene.cameras.height}), "
        f"learning rule {options.learning_rule}, {parameters:,} parameters, {device} in {options.precision}{start}"
    )
