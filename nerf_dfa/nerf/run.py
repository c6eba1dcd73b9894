"""The run folder: what is in it, whether a run may go on there, and reading it back."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from nerf_dfa.errors import UserError
from nerf_dfa.files import alone, write_text
from nerf_dfa.interop import nerf_pytorch
from nerf_dfa.nerf.checks import scene_flags, to_text, unread
from nerf_dfa.nerf.flags import make_parser
from nerf_dfa.nerf.model import POSES_KEY, build_model, codec, measured_precision
from nerf_dfa.nerf.options import Options
from nerf_dfa.rendering import RadianceModel
from nerf_dfa.scenes import Scene, load_scene
from nerf_dfa.scenes.load import recognise
from nerf_dfa.scenes.procedural import write_demo
from nerf_dfa.training.checkpoints import list_checkpoints, load_checkpoint, step_of

# Options that may change when a run goes on: they say how long it trains and what it writes, not what it learns.
MAY_CHANGE = frozenset(
    "expname basedir datadir testskip N_iters device no_reload ft_path chunk netchunk dual render_only render_test "
    "compile render_factor path frames fps i_print i_img i_alignment i_weights i_testset i_video".split()
)


LOCK = ".lock"  # in the run folder, while a process trains there


def run_folder(options: Options) -> Path:
    return Path(options.basedir) / str(options.expname)


def read_args(folder: Path) -> Options:
    """The options in a run folder's args.txt."""
    path = folder / "args.txt"
    try:
        if not folder.is_dir():
            raise UserError(f"no run folder {folder}")
        if not path.is_file():
            raise UserError(f"{folder} is no run folder: it has no args.txt")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise UserError(f"{path} cannot be read as text") from None
    return options_from_text(nerf_pytorch.own_args(text) if nerf_pytorch.is_args(text) else text, path)


def options_from_text(text: str, path: Path) -> Options:
    """The options in `key = value` lines; path: the file that they come from, for messages."""
    try:
        given = vars(make_parser().parse_args([], config_file_contents=text))
    except UserError as error:
        raise UserError(f"{path}: {str(error).removeprefix('method arg: ')}") from None
    given.pop("config", None)
    return Options(**given)


def as_in_nerf_pytorch(options: Options, given: set[str]) -> tuple[Options, str | None]:
    """The options for a run that starts from nerf-pytorch's weights, with a line on what that changes.

    Its networks are rendered as there: its density and its rays, where the user (`given`) did not ask for others. A
    run folder of its own goes on with its learning rule.
    """
    folder = run_folder(options)
    first = list_checkpoints(folder)[:1] if goes_on(folder, options) else []
    values: dict[str, Any] = {}
    if options.ft_path is not None and Path(options.ft_path).is_file():
        path = Path(options.ft_path)
        values = nerf_pytorch.RENDERING
    elif first:
        path = first[0]
        values = nerf_pytorch.RENDERING | {"learning_rule": "bp"}
    values = {name: value for name, value in values.items() if name not in given and getattr(options, name) != value}
    if not values or not nerf_pytorch.is_checkpoint(load_checkpoint(path)):
        return options, None
    changes = ", ".join(f"{name} = {value}" for name, value in values.items())
    return replace(options, **values), f"{path} is nerf-pytorch's: {changes}"


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Inside the block the run folder is there, and no other process trains in it. UserError if one does."""
    new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write the run folder {folder}: {error.strerror}") from error
    try:
        with alone(folder / LOCK):
            yield
    finally:
        if new and not any(folder.iterdir()):  # it was a mistake
            folder.rmdir()


def goes_on(folder: Path, options: Options) -> bool:
    """Whether a run of these options goes on from what the folder holds, or shows it."""
    return bool(list_checkpoints(folder)) and (not options.no_reload or options.render_only)


def check_kept(options: Options, dataset_type: str) -> None:
    """UserError for an option that args.txt cannot hold, so that the run could not be read back."""
    text = to_text(options, dataset_type)
    for name in ("datadir", "basedir", "expname"):
        value = getattr(options, name)
        try:
            kept = getattr(options_from_text(text, Path("args.txt")), name) == value
        except UserError:
            kept = False
        if not kept:
            raise UserError(f"--{name} {value!r}: such a name cannot be kept in args.txt; choose another")


def check_continues(folder: Path, options: Options) -> None:
    """UserError if the options go on with the run that the folder holds, and that has others."""
    if not goes_on(folder, options) or not (folder / "args.txt").is_file():
        return
    before, skip = read_args(folder), unread(options, scene_format(options))  # args.txt has only what is read
    for name, value in vars(options).items():
        old = getattr(before, name)
        # "auto": another program's run leaves the choice open.
        if name not in MAY_CHANGE and name not in skip and old not in (value, "auto"):
            raise UserError(
                f"{folder} holds a run with {name} = {old}, and this one has {name} = {value}; "
                f"choose another --expname, or --no_reload to start anew"
            )


def settle_precision(options: Options, device: torch.device) -> Options:
    """The options with precision "auto" settled: as the folder's run has it, else as a measurement finds."""
    folder = run_folder(options)
    if options.precision == "auto" and goes_on(folder, options) and (folder / "args.txt").is_file():
        options = replace(options, precision=read_args(folder).precision)
    return options if options.precision != "auto" else replace(options, precision=measured_precision(options, device))


def put_aside(folder: Path) -> Path | None:
    """Moves what an earlier run left in the folder to `replaced_001`, ... inside it; None if there was nothing."""
    left = [p for p in folder.iterdir() if not p.name.startswith(("replaced_", LOCK))] if folder.is_dir() else []
    if not left:
        return None
    number = 1 + max((int(p.name[9:]) for p in folder.glob("replaced_*") if p.name[9:].isdecimal()), default=0)
    target = folder / f"replaced_{number:03d}"
    target.mkdir()
    for path in left:
        shutil.move(path, target / path.name)
    return target


def write_args(folder: Path, options: Options, dataset_type: str, config: Path | None) -> None:
    """Makes the folder, with args.txt and, where a config file was read, its copy config.txt."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "args.txt", to_text(options, dataset_type))
        if config is not None:
            write_text(folder / "config.txt", config.read_text())
    except OSError as error:
        raise UserError(f"cannot write the run folder {folder}: {error.strerror}") from error


def scene_format(options: Options) -> str:
    """Name of the scene's format, never "auto" or "demo"; writes the demo scene where it is wanted and missing."""
    if options.dataset_type == "demo":
        root = Path(options.datadir)
        root.parent.mkdir(parents=True, exist_ok=True)
        write_demo(root)
        return "blender"
    if options.dataset_type != "auto":
        return options.dataset_type
    root = Path(options.datadir).expanduser()
    if not root.is_dir():
        raise UserError(f"--datadir {options.datadir}: no such folder")
    return recognise(root)


def load_run_scene(options: Options, dataset_type: str) -> Scene:
    """The scene that the options name, with those options that its format reads, and every `testskip`th test view."""
    values = {name: getattr(options, name) for name in scene_flags(dataset_type)}
    if "no_ndc" in values:
        values["ndc"] = not values.pop("no_ndc")
    scene = load_scene(options.datadir, dataset_type, **values)
    if "testskip" not in values:
        scene = replace(scene, split={**scene.split, "test": scene.split["test"][:: options.testskip]})
    return replace(scene, cameras=replace(scene.cameras, pixel_offset=options.pixel_offset))


@dataclass(frozen=True)
class Trained:
    """A trained run, read back: its options, model and the step of the checkpoint, and whether that is the last.

    poses: of the cameras that it was trained on; None where the checkpoint does not say.
    """

    folder: Path
    options: Options
    model: RadianceModel
    step: int
    last: bool
    seconds: float
    restarts: int
    poses: Any  # of the training cameras, as the checkpoint has them; None: it does not say


def load_run(folder: Path, device: torch.device, step: int | None = None) -> Trained:
    """The run's last checkpoint, or that of a step, on the device."""
    options = read_args(folder)
    checkpoints = list_checkpoints(folder)
    if not checkpoints:
        raise UserError(f"{folder} has no checkpoint yet")
    path = checkpoints[-1]
    if step is not None:
        path = next((p for p in checkpoints if int(p.stem) == step), None)
        if path is None:
            have = ", ".join(str(int(p.stem)) for p in checkpoints)
            raise UserError(f"{folder} has no checkpoint of step {step}; it has {have}")
    contents = load_checkpoint(path)
    model = build_model(options)
    codec(model).load(contents, path)
    last = path == checkpoints[-1]
    seconds, restarts = float(contents.get("seconds", 0.0)), int(contents.get("restarts", 0))
    step, poses = step_of(contents, path), contents.get(POSES_KEY)
    return Trained(folder, options, model.to(device), step, last, seconds, restarts, poses)
