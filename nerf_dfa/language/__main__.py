"""Learns to continue a text by a learning rule of your choice.

python -m nerf_dfa.language --config configs/language/wikitext-dfa-macro.txt --save
python -m nerf_dfa.language --config configs/language/reviews-dfa-macro.txt --text reviews.txt --seeds 3
python -m nerf_dfa.language --table rules --text reviews.txt --seeds 3
python -m nerf_dfa.language --generate "the film" --checkpoint results/language/reviews-bp/seed_0/000400.tar
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch

from nerf_dfa.errors import UserError
from nerf_dfa.files import write_text
from nerf_dfa.training.cells import Cell, load_cell, run_cells, run_name
from nerf_dfa.training.devices import choose_device, keep_freed_memory
from nerf_dfa.training.program import Parser, positive, run_program, seed
from nerf_dfa.training.settings import add_flags, given_flags, make_settings, read_config

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "language"
OVER_TABLE = ("text", "steps", "evaluate_every")  # flags that win over all configs of a table
OF_TRAINING = ("config", "table", "seeds", "save", "jobs", "device", "configs")
OF_GENERATE = ("checkpoint", "tokenizer", "tokens", "temperature", "seed")

if find_spec("tokenizers") is None:
    sys.exit("language: error: this needs tokenizers: pip install -e '.[language]'")

from nerf_dfa.language import tables  # noqa: E402
from nerf_dfa.language.generate import generate  # noqa: E402
from nerf_dfa.language.published import TABLES  # noqa: E402
from nerf_dfa.language.settings import Settings  # noqa: E402
from nerf_dfa.language.task import corpus_of, train  # noqa: E402


def make_parser() -> Parser:
    parser = Parser(
        prog="python -m nerf_dfa.language",
        usage="%(prog)s [--config FILE] [flags], or --table NAME [flags], or --generate TEXT --checkpoint FILE",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", type=Path, help="file of 'key = value' lines; flags win over it")
    add_flags(parser, Settings)
    parser.add_argument("--seeds", type=positive, help="how many, from 0 on [1]")
    parser.add_argument("--out", type=Path, default=Path("results/language"), help="folder of results [%(default)s]")
    parser.add_argument("--save", action="store_true", help="keep checkpoints; an interrupted run goes on from them")
    parser.add_argument("--jobs", type=positive, help="runs at a time, one thread each [1]")
    parser.add_argument("--device", choices=("cpu", "cuda", "auto"), help="[cpu]")
    parser.add_argument("--threads", type=positive, default=1, help="of a run on the CPU [%(default)s]")
    parser.add_argument("--table", choices=TABLES, help="train a whole table, by its configs")
    parser.add_argument("--configs", type=Path, help="of --table [configs/language]")
    parser.add_argument("--generate", metavar="TEXT", help="continue this text; in quotes")
    parser.add_argument("--checkpoint", type=Path, help="of --generate: what --save kept")
    parser.add_argument("--tokenizer", type=Path, help="of --generate [tokenizer.json beside the checkpoint]")
    parser.add_argument("--tokens", type=positive, help="of --generate: how many more [100]")
    parser.add_argument("--temperature", type=_not_negative, help="of --generate: 0 takes the likeliest [1]")
    parser.add_argument("--seed", type=seed, help="of --generate [0]")
    return parser


def run(arguments: argparse.Namespace) -> None:
    """What the arguments ask for. Raises UserError."""
    given = given_flags(arguments, Settings)
    if arguments.generate is not None:
        _refuse(arguments, (*OF_TRAINING, *given), "--generate goes by its checkpoint")
        _generate(arguments)
        return
    _refuse(arguments, OF_GENERATE, "only --generate reads it")
    if arguments.table:
        others = [key for key in given if key not in OVER_TABLE]
        _refuse(arguments, ("config", *others), "the table goes by its configs")
        _run_table(arguments, given)
        return
    _refuse(arguments, ("configs",), "only --table reads it")
    _run_one(arguments, given)


def _run_one(arguments: argparse.Namespace, given: dict[str, str]) -> None:
    stated = read_config(arguments.config, Settings) if arguments.config else {}
    where = str(arguments.config) if arguments.config and not given else ""
    settings = make_settings(Settings, {**stated, **given}, where)
    changes = {key: value for key, value in given.items() if key != "text"}
    stem = arguments.config.stem if arguments.config else Path(settings.text).stem
    cell = load_cell(run_name(stem, changes), settings, arguments.out)
    _train([cell], arguments)
    for head, value in zip(tables.HEADS, tables.row(cell, arguments.seeds or 1), strict=True):
        print(f"{head}: {value}")


def _run_table(arguments: argparse.Namespace, given: dict[str, str]) -> None:
    table, seeds = TABLES[arguments.table], arguments.seeds or 1
    cells = list(tables.table_cells(table, given, arguments.configs or CONFIGS, arguments.out))
    _train(cells, arguments)
    text = tables.markdown(arguments.table, table, cells, seeds)
    write_text(arguments.out / f"table_{arguments.table}.md", text)
    print(text)


def _train(cells: Sequence[Cell], arguments: argparse.Namespace) -> None:
    out, device = arguments.out, arguments.device or "cpu"
    choose_device(device)
    for settings in {cell.settings for cell in cells}:
        corpus_of(settings, out)  # before the first run, so that what is wrong is told at once
    one = partial(train, out=out, device=device)
    run_cells(cells, arguments.seeds or 1, one, out, tables.score, arguments.jobs or 1, arguments.save)


def _generate(arguments: argparse.Namespace) -> None:
    if arguments.checkpoint is None:
        raise UserError("--generate needs --checkpoint FILE, a .tar that --save kept")
    temperature = 1.0 if arguments.temperature is None else arguments.temperature
    of_model = (arguments.checkpoint, arguments.generate, arguments.tokens or 100, temperature)
    print(generate(*of_model, arguments.seed or 0, arguments.tokenizer))


def _refuse(arguments: argparse.Namespace, flags: Sequence[str], reason: str) -> None:
    for flag in flags:
        if getattr(arguments, flag) not in (None, False):
            raise UserError(f"--{flag} has no effect here: {reason}; leave it out")


def _not_negative(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number, at least 0")
    return value


def main(argv: list[str] | None = None) -> int:
    """Exit status 0, 2 for a user's mistake (one line), 130 when interrupted."""

    def body() -> None:
        arguments = make_parser().parse_args(argv)
        torch.set_num_threads(arguments.threads)
        run(arguments)

    return run_program("language", body)


if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(main())
