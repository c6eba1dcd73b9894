"""From a command line and a config file to Options.

A config file holds `key = value` lines with the names of the flags; the command line wins over it.
"""

from __future__ import annotations

import argparse
import difflib
import types
import typing
from dataclasses import fields
from pathlib import Path
from typing import Any

import configargparse

from nerf_dfa.errors import UserError
from nerf_dfa.nerf.checks import check, idle
from nerf_dfa.nerf.options import Options
from nerf_dfa.nerf.presets import PRESETS
from nerf_dfa.training.program import OneLineErrors


class Parser(OneLineErrors, configargparse.ArgumentParser):
    """One that reads config files too, and whose errors are one line and raise UserError."""


class ConfigFile(configargparse.DefaultConfigFileParser):
    """nerf-pytorch's `key = value` files; a line that is none, or an unknown key, is reported with the file's name."""

    def parse(self, stream):
        name = getattr(stream, "name", "config file")
        try:
            values = super().parse(stream)
        except configargparse.ConfigFileParserException as error:
            raise UserError(f"{name}: not a 'key = value' line: {error}".splitlines()[0]) from None
        except UnicodeDecodeError as error:
            raise UserError(f"{name}: cannot be read as text: {error}") from None
        known = [f.name for f in fields(Options)]
        for key in values:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                raise UserError(f"{name}: unknown key '{key}'" + (f"; did you mean {near[0]}?" if near else ""))
        return values


def _type_of(annotation: Any) -> type:
    """int of `int | None`."""
    if isinstance(annotation, types.UnionType):
        return next(a for a in typing.get_args(annotation) if a is not type(None))
    return annotation


def make_parser(prog: str = "train.py") -> Parser:
    """The command line. Options that are not given are absent from its result."""
    parser = Parser(
        prog=prog,
        description="Train a neural radiance field by a learning rule of your choice, then render it.",
        argument_default=argparse.SUPPRESS,
        config_file_parser_class=ConfigFile,
        allow_abbrev=False,
        add_config_file_help=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--config", is_config_file=True, default=None, help="file of 'key = value' lines")
    annotations = typing.get_type_hints(Options)
    for f in fields(Options):
        kind = _type_of(annotations[f.name])
        text = f.metadata["help"] + ("" if f.default is None or kind is bool else f" [{f.default}]")
        if kind is bool:
            parser.add_argument(f"--{f.name}", action="store_true", default=argparse.SUPPRESS, help=text)
        else:
            alone = {"nargs": "?", "const": "pixels"} if f.name == "dual" else {}  # --dual is the paper's
            parser.add_argument(
                f"--{f.name}", type=kind, choices=f.metadata["choices"], default=argparse.SUPPRESS, help=text, **alone
            )
    return parser


def parse(argv: list[str], default_config: Path | None = None) -> tuple[Options, set[str], Path | None]:
    """Options, the names of those that the user gave, and the config file.

    default_config is read where the command line names neither a config file nor a scene. What the command line makes
    a file's line mean nothing for (of an MLP, where it says --field grid) is not counted as given; what means nothing
    has its default, so that a run's args.txt, which leaves it out, says all.
    Raises UserError: unknown flag or key, wrong type, missing file.
    """
    parser = make_parser()
    if default_config is not None and not any(a.split("=")[0] in ("--config", "--datadir") for a in argv):
        argv = ["--config", str(default_config), *argv]
    given = vars(parser.parse_args(argv))
    sources = parser.get_source_to_settings_dict()
    settled = _settled(parser, argv, given)
    config = settled.pop("config", None)
    options = Options(**settled)
    asked = set(given) - {"preset", "config"}
    if config is not None:
        alone = ["--config", config]
        of_file = _settled(parser, alone, vars(parser.parse_args(alone)))
        del of_file["config"]
        in_file = {a.dest for s, lines in sources.items() if s.startswith("config_file") for a, _ in lines.values()}
        asked -= (in_file & idle(options).keys()) - idle(Options(**of_file)).keys()
    if options.expname is None:
        stem = Path(config).stem if config and "datadir" in of_file else Path(options.datadir).resolve().name
        options.expname = f"{stem}_{options.learning_rule}"
    check(options)
    defaults = Options()
    for name in idle(options):
        setattr(options, name, getattr(defaults, name))
    return options, asked, Path(config) if config else None


def _settled(parser: Parser, argv: list[str], given: dict[str, Any]) -> dict[str, Any]:
    """What was given by argv, with a preset's flags in its place: a run's args.txt has the flags themselves."""
    if "preset" not in given:
        return dict(given)
    settled = vars(parser.parse_args([*PRESETS[given["preset"]].split(), *argv]))
    del settled["preset"]
    return settled
