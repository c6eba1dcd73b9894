"""A run's settings as a dataclass: its fields are the flags and the keys of config files, with their limits.

    @dataclass(frozen=True)
    class Settings:
        model: str = setting("gcn", "the network", choices=("gcn", "gat"))
        lr: float = setting(0.01, "learning rate of Adam", low=1e-12)

Values are text until `make_settings`, which checks them. Config files hold `key = value` lines, and flags win over
them.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from nerf_dfa.errors import UserError

S = TypeVar("S")


def setting(
    default: Any,
    text: str,
    *,
    choices: Sequence[str] | None = None,
    low: int | float = -math.inf,
    below: int | float = math.inf,
    when: tuple[Callable[[Any], bool], str] | None = None,
) -> Any:
    """A field: its kind is its default's (str, int, float or bool), numbers are in [low, below).

    when: whether a run with such settings reads it, and if not the reason; given all the same it is an error.
    """
    if choices is not None and default not in choices:
        raise ValueError(f"the default {default!r} is not among the choices {choices}")
    metadata = {"text": text, "choices": choices, "low": low, "below": below, "when": when}
    return dataclasses.field(default=default, metadata=metadata)


def read_pairs(path: Path) -> dict[str, str]:
    """The `key = value` lines of a file; `#` begins a comment. Raises UserError that names the file and the line."""
    try:
        lines = [line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    given: dict[str, str] = {}
    for line in filter(None, lines):
        key, equals, value = (part.strip() for part in line.partition("="))
        if not equals or not key or not value or key in given:
            raise UserError(f"{path}: '{line}' is not 'key = value', or its key stands there twice")
        given[key] = value
    return given


def read_config(path: Path, kind: type) -> dict[str, str]:
    """What a config file says, all of it settings of that kind. Raises UserError that names the file."""
    given = read_pairs(path)
    _check_keys(kind, given, f"{path}: ")
    return given


def make_settings(kind: type[S], given: Mapping[str, str], where: str = "") -> S:
    """Settings from text, checked, the others at their defaults; see `change_settings`."""
    return change_settings(kind(), given, where)


def change_settings(settings: S, given: Mapping[str, str], where: str = "") -> S:
    """The settings with those changed that are given as text; `where` (the file) begins the message of a mistake.

    Raises UserError for an unknown key, a value that is out of range, or a key that the run would not read.
    """
    prefix = f"{where}: " if where else ""
    _check_keys(type(settings), given, prefix)
    known = {f.name: f for f in fields(settings)}
    values = {key: _value(f"{prefix}{key}", text, known[key]) for key, text in given.items()}
    try:
        settings = dataclasses.replace(settings, **values)
    except UserError as error:  # of a class that checks what its fields say together
        raise UserError(f"{prefix}{error}") from None
    for key in given:
        when = known[key].metadata["when"]
        if when is not None and not when[0](settings):
            raise UserError(f"{prefix}{key} has no effect here: {when[1]}; leave it out")
    return settings


def _check_keys(kind: type, given: Mapping[str, str], prefix: str) -> None:
    keys = [f.name for f in fields(kind)]
    for key in given:
        if key not in keys:
            raise UserError(f"{prefix}unknown key '{key}'; there are {', '.join(keys)}")


def add_flags(parser: argparse.ArgumentParser, kind: type) -> None:
    """A flag for every field; what is given stays text, for `given_flags` and `make_settings`."""
    for f in fields(kind):
        choices = f": {', '.join(f.metadata['choices'])}" if f.metadata["choices"] else ""
        about = f"{f.metadata['text']}{choices} [{f.default}]".replace("%", "%%")
        parser.add_argument(f"--{f.name}", metavar=f.name.split("_")[-1].upper(), help=about)


def given_flags(arguments: argparse.Namespace, kind: type) -> dict[str, str]:
    """The settings among the parsed arguments that were given."""
    return {f.name: getattr(arguments, f.name) for f in fields(kind) if getattr(arguments, f.name) is not None}


def _value(where: str, text: str, field: dataclasses.Field) -> str | bool | int | float:
    choices, low, below = (field.metadata[key] for key in ("choices", "low", "below"))
    kind = type(field.default)
    if kind is bool:
        choices = ("False", "True")
    if choices is not None and text not in choices and not (kind is bool and text.capitalize() in choices):
        raise UserError(f"{where} = {text}: expected one of {', '.join(choices)}")
    if kind is bool:
        return text.capitalize() == "True"
    return text if kind is str else _number(where, text, kind, low, below)


def _number(where: str, text: str, kind: type, low: int | float, below: int | float) -> int | float:
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if not (low <= value < below and math.isfinite(value)):
        limits = [f"at least {low:g}"] * (low > -math.inf) + [f"below {below:g}"] * (below < math.inf)
        whole = "whole " if kind is int else ""
        raise UserError(f"{where} = {text}: expected a {whole}number{', ' * bool(limits)}{' and '.join(limits)}")
    return value
