"""Makes a run folder of another project's checkpoint, which render.py renders and train.py goes on with.

    python -m nerf_dfa.interop.import_checkpoint FILE --out RUN [--datadir SCENE] [--config FILE]

Which project wrote the file is seen from what is in it: krrish94/nerf-pytorch, the release of the paper on direct
feedback alignment, or yenchenlin/nerf-pytorch. Settings come from the project's config beside the file (or --config),
else from what is known of its published networks. Only weights and the step are taken over: a run that trains on from
them starts with a new optimiser, and under dfa with a new feedback matrix. Nothing in the file is executed.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nerf_dfa.errors import UserError
from nerf_dfa.interop import flexible, nerf_pytorch
from nerf_dfa.interop.published import PROJECTS, Config, config_beside, read_config, scene_by_name
from nerf_dfa.nerf.checks import check
from nerf_dfa.nerf.model import STATE_KEYS, build_model, codec
from nerf_dfa.nerf.options import Options
from nerf_dfa.nerf.run import options_from_text, write_args
from nerf_dfa.scenes.load import recognise
from nerf_dfa.training.checkpoints import checkpoint_path, entry, load_checkpoint, save_checkpoint, step_of
from nerf_dfa.training.program import Parser

# Where scenes/README.md says to put the public data sets.
FOLDERS = {"blender": "scenes/nerf_synthetic", "llff": "scenes/nerf_llff_data"}


@dataclass(frozen=True)
class Imported:
    """A checkpoint in this program's words. notes: what was found and assumed, a line each."""

    options: Options
    dataset_type: str
    weights: dict[str, dict[str, Tensor]]
    step: int
    notes: list[str]


def main(argv: list[str] | None = None) -> int:
    """Runs the program; returns its exit status: 0, or 2 for a user's mistake (one line)."""
    parser = Parser(prog="import_checkpoint", description="Make a run folder of another project's checkpoint.")
    parser.add_argument("file", help="checkpoint of another project")
    parser.add_argument("--out", required=True, help="run folder to make")
    parser.add_argument("--datadir", help="folder of the scene [where scenes/README.md puts the one of that name]")
    parser.add_argument("--config", help="the project's config [the one beside the file]")
    try:
        args = parser.parse_args(argv)
        config = Path(args.config) if args.config else None
        for line in import_checkpoint(Path(args.file), Path(args.out), args.datadir, config):
            print(line)
    except UserError as error:
        print(f"import_checkpoint: error: {error}", file=sys.stderr)
        return 2
    return 0


def import_checkpoint(file: Path, out: Path, datadir: str | None = None, config: Path | None = None) -> list[str]:
    """Writes the run folder `out`; returns what was found and assumed, a line each.

    Raises:
        UserError: the file is of no known project, or damaged; the scene is unknown; the folder holds a run already.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and is not empty; choose another folder for --out")
    contents = read_foreign(file)
    if flexible.is_checkpoint(contents):
        imported = _flexible(contents, file, datadir, config)
    elif nerf_pytorch.is_checkpoint(contents):
        imported = _nerf_pytorch(contents, file, datadir, config)
    elif nerf_pytorch.COARSE in contents:
        raise UserError(f"{file} is a checkpoint of this program: render its folder, or give it to train.py --ft_path")
    else:
        raise UserError(
            f"{file} is of no known project: expected an entry '{flexible.COARSE}' or '{nerf_pytorch.COARSE}'; "
            f"it holds {', '.join(map(str, contents)) or 'nothing'}"
        )
    return imported.notes + _write(imported, file, out)


def read_foreign(path: Path) -> dict[str, Any]:
    """Contents of a checkpoint; nothing in it is executed. NumPy's numbers, which older programs left in, are read."""
    with torch.serialization.safe_globals(_numpy_numbers()):
        return load_checkpoint(path)


def _numpy_numbers() -> list[Any]:
    """What a pickled NumPy scalar refers to, under the names of NumPy 1 and 2."""
    scalar = np.float64(0).__reduce__()[0]
    kinds = [np.float16, np.float32, np.float64, np.int32, np.int64, np.bool_]
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    return [*((scalar, name) for name in names), np.dtype, *{type(np.dtype(kind)) for kind in kinds}]


def _flexible(contents: dict[str, Any], file: Path, datadir: str | None, config: Path | None) -> Imported:
    states = flexible.networks(contents, file)
    what = {name: f"{file} ({name} network)" for name in states}
    weights = {name: flexible.own_weights(state, what[name]) for name, state in states.items()}
    shapes = {name: flexible.shape_of(state, what[name]) for name, state in states.items()}
    coarse, fine = shapes["coarse"], shapes.get("fine")

    config = config or config_beside(file)
    known = None if config is None else read_config(config)
    model = _model(flexible.model_class(states["coarse"]), known, config, file)
    project = PROJECTS[model]
    place, dataset_type, notes = _scene(file, datadir, known)
    options = project.network | getattr(project, dataset_type) | {"datadir": place}
    if known is not None:
        options |= known.options
        notes.append(f"settings: {config}")
        for name, here, there in (
            ("num_encoding_fn_xyz", coarse.multires, known.multires[0]),
            ("num_encoding_fn_dir", coarse.multires_views, known.multires[1]),
        ):
            if here is not None and here != there:
                raise UserError(f"{config}: models.coarse.{name} is {there}, but the network of {file} has {here}")
    else:
        notes.append(f"settings: no config beside the file, so those that {project.code} has for {dataset_type} scenes")
    if fine is None:
        if known is None or (known.has_fine and known.options["N_importance"] > 0):
            raise UserError(f"{file} has no fine network ('{flexible.FINE}')")
        options["N_importance"] = 0
    elif (fine.multires, fine.multires_views) != (coarse.multires, coarse.multires_views):
        raise UserError(f"{file}: the coarse and the fine network encode positions or directions differently")
    options |= _network_options(coarse, fine)
    step = contents.get("iter")
    if not isinstance(step, int):
        raise UserError(f"{file} has no step: its entry 'iter' is {step!r}, expected a whole number")
    samples = f"{options['N_samples']} + {options['N_importance']} samples"
    sizes = ", ".join(f"{n} {s.depth} x {s.width} ({s.parameters:,} parameters)" for n, s in shapes.items())
    notes.insert(0, f"{file}: {model} of {project.code}, step {step + 1}: {sizes}, {samples}")
    return Imported(Options(**options), dataset_type, weights, step + 1, notes)


def _model(by_order: str | None, known: Config | None, config: Path | None, file: Path) -> str:
    """The class of the networks, from the order of their weights and from the config."""
    by_config = None if known is None else known.model
    if by_order and by_config and by_order != by_config:
        raise UserError(f"{config} describes a {by_config}, but {file} holds a {by_order}")
    model = by_order or by_config
    if model is None:
        known_orders = " nor ".join(PROJECTS)
        raise UserError(f"{file}: its weights are in the order of neither {known_orders}; give its --config")
    return model


def _network_options(coarse: flexible.Shape, fine: flexible.Shape | None) -> dict[str, Any]:
    last = fine or coarse
    options = {
        "netdepth": coarse.depth,
        "netwidth": coarse.width,
        "netdepth_fine": last.depth,
        "netwidth_fine": last.width,
        "multires": coarse.multires,
        "use_viewdirs": coarse.multires_views is not None,
    }
    if coarse.multires_views is None:
        return options | {"feature_relu": False}
    return options | {"multires_views": coarse.multires_views}


def _scene(file: Path, datadir: str | None, known: Config | None) -> tuple[str, str, list[str]]:
    """Folder and format of the scene, and a line on how it was found."""
    if datadir is not None:
        root = Path(datadir).expanduser()
        if not root.is_dir():
            raise UserError(f"--datadir {datadir}: no such folder")
        dataset_type = recognise(root)
        if dataset_type not in FOLDERS or (known is not None and known.dataset_type != dataset_type):
            wanted = "blender or llff" if known is None else known.dataset_type
            raise UserError(f"--datadir {datadir} is a {dataset_type} scene; {file} was trained on one of {wanted}")
        return datadir, dataset_type, [f"scene: {datadir} ({dataset_type})"]
    scene = scene_by_name(file.stem)
    if scene is None or (known is not None and known.dataset_type != scene[1]):
        raise UserError(f"{file}: its name does not tell the scene; give --datadir")
    place = f"{FOLDERS[scene[1]]}/{scene[0]}"
    return place, scene[1], [f"scene: {place} ({scene[1]}), by the file's name; if it lies elsewhere, give --datadir"]


def _nerf_pytorch(contents: dict[str, Any], file: Path, datadir: str | None, config: Path | None) -> Imported:
    config = config or next((p for p in (file.parent / "args.txt", file.parent / "config.txt") if p.is_file()), None)
    if config is None:
        raise UserError(f"{file} is nerf-pytorch's, and no args.txt lies beside it; give its --config")
    try:
        text = config.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise UserError(f"{config}: no such file, or not a text") from None
    options = options_from_text(nerf_pytorch.own_args(text), config)
    if datadir is not None:
        options.datadir = datadir
    dataset_type = options.dataset_type
    if dataset_type == "auto":
        dataset_type = recognise(Path(options.datadir).expanduser())
    weights = {"coarse": entry(contents, nerf_pytorch.COARSE, file)}
    if options.N_importance > 0:
        weights["fine"] = entry(contents, nerf_pytorch.FINE, file)
    step = step_of(contents, file)
    notes = [
        f"{file}: {nerf_pytorch.CODE}, step {step}, {options.N_samples} + {options.N_importance} samples",
        f"settings: {config}",
        f"scene: {options.datadir} ({dataset_type})",
    ]
    weights = {name: nerf_pytorch.own_weights(state) for name, state in weights.items()}
    return Imported(options, dataset_type, weights, step, notes)


def _write(imported: Imported, file: Path, out: Path) -> list[str]:
    """The run folder: args.txt and the checkpoint."""
    options, dataset_type = imported.options, imported.dataset_type
    options.expname, options.basedir, options.dataset_type = out.resolve().name, str(out.parent), dataset_type
    check(options)
    torch.manual_seed(options.seed)  # of the feedback matrix
    model = build_model(options)
    parts = codec(model)
    parts.load({STATE_KEYS[name]: state for name, state in imported.weights.items()}, file)
    optimizer = torch.optim.Adam(model.parameters(), lr=options.lrate)
    contents = {
        "global_step": imported.step,
        "seconds": 0.0,
        **parts.entries(),
        "optimizer_state_dict": optimizer.state_dict(),
    }
    write_args(out, options, dataset_type, None)
    path = checkpoint_path(out, imported.step)
    save_checkpoint(path, contents)
    return [f"{path}: render it with python render.py --run {out}"]


if __name__ == "__main__":
    sys.exit(main())
