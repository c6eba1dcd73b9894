"""How the published networks were trained and are to be rendered: known settings, and the projects' YAML configs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from nerf_dfa.errors import UserError

BLENDER_SCENES = "chair drums ficus hotdog lego materials mic ship".split()
LLFF_SCENES = "fern flower fortress horns leaves orchids room trex".split()

FIELD = {"density_activation": "relu", "feature_relu": True, "no_skip": True, "pixel_offset": 0.0}


@dataclass(frozen=True)
class Project:
    """A project whose networks can be imported.

    code: where it is published. network, blender, llff: options of its networks, and of runs on scenes of either
    format where no config says otherwise.
    """

    code: str
    network: dict[str, Any]
    blender: dict[str, Any] = field(default_factory=dict)
    llff: dict[str, Any] = field(default_factory=dict)


# By the class of the network.
PROJECTS = {
    "DFAFlexibleNeRFModel": Project(
        "lightonai/dfa-scales-to-modern-deep-learning",
        FIELD | {"learning_rule": "dfa"},
        blender=dict(
            N_samples=64, N_importance=128, white_bkgd=True, no_batching=True, N_rand=1024,
            lrate=1e-4, lrate_decay=500.0, N_iters=500_000,
        ),
        llff=dict(
            N_samples=64, N_importance=128, factor=4, llffhold=8, no_batching=True, N_rand=4096, raw_noise_std=1.0,
            lrate=5e-4, lrate_decay=250.0, N_iters=200_000,
        ),
    ),
    "FlexibleNeRFModel": Project(
        "krrish94/nerf-pytorch",
        FIELD | {"learning_rule": "bp", "linear_first": True},
        blender=dict(
            N_samples=64, N_importance=64, white_bkgd=True, half_res=True, no_batching=True, N_rand=1024,
            raw_noise_std=0.2, lrate=5e-3, lrate_decay=250.0, N_iters=200_000,
        ),
        llff=dict(
            N_samples=64, N_importance=64, factor=8, llffhold=8, no_batching=True, N_rand=1024, raw_noise_std=1.0,
            lrate=5e-3, lrate_decay=250.0, N_iters=250_000,
        ),
    ),
}  # fmt: skip


def scene_by_name(text: str) -> tuple[str, str] | None:
    """Name and format of the public scene whose name stands in a file's name; None where none or several do."""
    words = "".join(c if c.isalnum() else " " for c in text.lower()).split()
    found = [(name, kind) for kind, names in (("blender", BLENDER_SCENES), ("llff", LLFF_SCENES)) for name in names]
    found = [pair for pair in found if pair[0] in words]
    return found[0] if len(found) == 1 else None


def config_beside(file: Path) -> Path | None:
    """The YAML file in the same folder whose name the checkpoint's begins with (the longest), else config.yml."""
    try:
        others = sorted(p for p in file.parent.iterdir() if p.suffix in (".yml", ".yaml"))
    except OSError:
        return None
    named = [p for p in others if file.name.startswith(p.stem)]
    named = named or [p for p in others if p.stem == "config"]
    return max(named, key=lambda p: len(p.stem), default=None)


@dataclass(frozen=True)
class Config:
    """What a project's YAML file says.

    model: class of the networks. dataset_type: format of the scene. options: settings of the run. multires: for the
    network's encodings of position and direction. has_fine: whether a fine network belongs to it.
    """

    model: str
    dataset_type: str
    options: dict[str, Any]
    multires: tuple[int, int]
    has_fine: bool


class _Table:
    """Nested mappings of a YAML file; a missing or wrong value is reported with the file and its dotted name."""

    def __init__(self, path: Path, contents: Any) -> None:
        self.path, self.contents = path, contents

    def get(self, name: str, kind: type, default: Any = None) -> Any:
        """The value of a dotted name, of that type (an int passes for a float); default where it is missing."""
        value = self.contents
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is None and default is not None:
            return default
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            what = "is missing" if value is None else f"is {value!r}"
            raise UserError(f"{self.path}: {name} {what}; expected {_KINDS[kind]}")
        return value


_KINDS = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}


def read_config(path: Path) -> Config:
    """A YAML config of either project.

    Raises:
        UserError: it cannot be read, a value is missing or wrong, or asks for what this program does not have.
    """
    try:
        contents = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    table = _Table(path, contents)
    model = table.get("models.coarse.type", str)
    if model not in PROJECTS:
        raise UserError(f"{path}: models.coarse.type is {model}; known are {', '.join(PROJECTS)}")
    for name in ("include_input_xyz", "include_input_dir", "log_sampling_xyz", "log_sampling_dir"):
        if not table.get(f"models.coarse.{name}", bool, True):
            raise UserError(f"{path}: models.coarse.{name} is false; this program has the encoding with it only")
    dataset_type = table.get("dataset.type", str).lower()
    if dataset_type not in ("blender", "llff"):
        raise UserError(f"{path}: dataset.type is {dataset_type}; known are blender and llff")
    return Config(
        model,
        dataset_type,
        _options(table, dataset_type),
        (table.get("models.coarse.num_encoding_fn_xyz", int), table.get("models.coarse.num_encoding_fn_dir", int)),
        isinstance(contents["models"].get("fine"), dict),
    )


def _options(table: _Table, dataset_type: str) -> dict[str, Any]:
    options = {
        "N_samples": table.get("nerf.train.num_coarse", int),
        "N_importance": table.get("nerf.train.num_fine", int),
        "lindisp": table.get("nerf.train.lindisp", bool),
        "white_bkgd": table.get("nerf.train.white_background", bool),
        "perturb": float(table.get("nerf.train.perturb", bool)),
        "raw_noise_std": table.get("nerf.train.radiance_field_noise_std", float),
        "N_rand": table.get("nerf.train.num_random_rays", int),
        "no_batching": True,
        "near": table.get("dataset.near", float),
        "far": table.get("dataset.far", float),
        "lrate": table.get("optimizer.lr", float),
        "lrate_decay": _tenfold(table.get("scheduler.lr_decay", int), table.get("scheduler.lr_decay_factor", float)),
        "N_iters": table.get("experiment.train_iters", int),
        "seed": table.get("experiment.randomseed", int),
    }
    if dataset_type == "blender":
        return options | {"half_res": table.get("dataset.half_res", bool)}
    return options | {
        "factor": table.get("dataset.downsample_factor", int),
        "llffhold": table.get("dataset.llffhold", int),
        "no_ndc": table.get("dataset.no_ndc", bool),
    }


def _tenfold(thousands: int, factor: float) -> float:
    """Thousands of steps in which the learning rate falls tenfold if it falls by `factor` in so many thousands."""
    return thousands / -math.log10(factor) if 0 < factor < 1 and thousands > 0 else 0.0
