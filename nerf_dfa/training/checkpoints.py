"""Checkpoints: `{step:06d}.tar` in the run folder, written atomically, read without unpickling code."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nerf_dfa.errors import UserError
from nerf_dfa.files import written_whole

_NAME = re.compile(r"\d{6,}\.tar")


def checkpoint_path(folder: Path, step: int) -> Path:
    return folder / f"{step:06d}.tar"


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints in the folder, oldest step first."""
    if not folder.is_dir():
        return []
    return sorted((p for p in folder.iterdir() if _NAME.fullmatch(p.name)), key=lambda p: int(p.stem))


def save_checkpoint(path: Path, contents: dict[str, Any]) -> None:
    """Tensors, numbers, strings, lists and dicts of them. Raises UserError where the disk does not take them."""
    try:
        with written_whole(path) as unfinished, open(unfinished, "wb") as file:
            torch.save(contents, file)
    except (OSError, RuntimeError) as error:
        cause = error.__context__ if isinstance(error, RuntimeError) else error  # torch's own is about its zip file
        reason = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(error).partition("\n")[0]
        raise UserError(f"cannot write checkpoint {path}: {reason}") from error


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Contents of a checkpoint; nothing in the file is executed (`weights_only=True`)."""
    try:
        contents = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise UserError(f"no checkpoint at {path}") from None
    except Exception as error:  # rubbish makes torch's reader raise almost anything
        raise UserError(
            f"{path} is not a readable checkpoint: {type(error).__name__}: {error}".splitlines()[0]
        ) from error
    if not isinstance(contents, dict):
        raise UserError(f"{path} is not a checkpoint of this program: it holds a {type(contents).__name__}")
    return contents


def entry(contents: dict[str, Any], key: str, path: Path) -> Any:
    """contents[key], or a UserError that names the file and the key."""
    if key not in contents:
        raise UserError(f"{path} has no entry '{key}'; it holds {', '.join(map(str, contents)) or 'nothing'}")
    return contents[key]


def check_settings(settings: Any, contents: dict[str, Any], path: Path, free: Sequence[str]) -> None:
    """Raises UserError where a checkpoint's settings are not these, a dataclass; those that are `free` may differ."""
    found = entry(contents, "settings", path)
    for key, value in asdict(settings).items():
        if key not in free and found.get(key) != value:
            raise UserError(
                f"{path}: trained with {key} = {found.get(key)}, and now it is {value}; move its folder away, or give "
                "another --out"
            )


def step_of(contents: dict[str, Any], path: Path) -> int:
    """The number of steps that a checkpoint has been trained for."""
    step = entry(contents, "global_step", path)
    if isinstance(step, bool) or not isinstance(step, int) or step < 0:
        raise UserError(f"{path}: global_step is {step!r}; expected a number of steps")
    return step


def load_optimizer(optimizer: torch.optim.Optimizer, state: Any, what: str, of_any_rule: bool = False) -> bool:
    """Loads the state of an optimiser of the same kind for parameters of the same shapes; otherwise a UserError.

    what: the file, for the message. of_any_rule: a state for another number of parameters, or of another kind of
    optimiser, as another learning rule has, is left alone and the result is False.
    """
    # Loading adds some of torch's own to the defaults, which the groups then lack.
    keys = [k for k in optimizer.defaults if all(k in group for group in optimizer.param_groups)]
    # The optimiser's numbers, and what others hold of a group, such as the factor of its rate, are this run's.
    held = [
        {k: v for k, v in g.items() if k != "params" and (k not in keys or isinstance(v, (float, tuple)))}
        for g in optimizer.param_groups
    ]
    try:
        sizes = [len(group["params"]) for group in state["param_groups"]]
        own_sizes = [len(group["params"]) for group in optimizer.param_groups]
        if of_any_rule and (sizes != own_sizes or state.keys() != optimizer.state_dict().keys()):
            return False
        if sizes != own_sizes:
            raise UserError(
                f"{what}: its optimiser's state is for groups of {_listed(sizes)} parameters, and this model has "
                f"{_listed(own_sizes)}"
            )
        numbers = [number for group in state["param_groups"] for number in group["params"]]
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for place, (number, parameter) in enumerate(zip(numbers, parameters, strict=True)):
            for name, value in state["state"].get(number, {}).items():
                # Moments have their parameter's shape; a counter of steps has none.
                if isinstance(value, Tensor) and value.dim() and value.shape != parameter.shape:
                    raise UserError(
                        f"{what}: its optimiser's '{name}' of parameter {place} is {tuple(value.shape)}, and the "
                        f"parameter {tuple(parameter.shape)}"
                    )
        optimizer.load_state_dict(state)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise UserError(f"{what}: its optimiser's state does not fit {type(optimizer).__name__} ({reason})") from error
    for group, own in zip(optimizer.param_groups, held, strict=True):
        for key in keys:
            if key not in group:
                raise UserError(
                    f"{what}: its optimiser's state is not one of {type(optimizer).__name__}: it has no '{key}'"
                )
        group.update(own)
    return True


def _listed(sizes: list[int]) -> str:
    return ", ".join(map(str, sizes)) or "no"


def load_weights(module: nn.Module, state: dict[str, Any], what: str) -> None:
    """Loads a state dict of exactly this architecture; otherwise a UserError that names the first difference.

    what: the file and the network, for the message.
    """
    own = module.state_dict()
    for name, tensor in own.items():
        if name not in state:
            raise UserError(f"{what} is of another architecture: it has no '{name}'")
        if state[name].shape != tensor.shape:
            raise UserError(
                f"{what} is of another architecture: '{name}' is {tuple(state[name].shape)} there and "
                f"{tuple(tensor.shape)} here"
            )
    for name in state:
        if name not in own:
            raise UserError(f"{what} is of another architecture: it has '{name}', which this network lacks")
    module.load_state_dict(state)
