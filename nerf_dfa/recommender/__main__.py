"""Learns which rows are clicks by a learning rule of your choice.

python -m nerf_dfa.recommender --config configs/recommender/criteo-deepfm-dfa.txt --data train.txt --cache criteo
python -m nerf_dfa.recommender --config ... --data train.txt --cache criteo --search
python -m nerf_dfa.recommender --table A.3 --dataset movielens --data ml-100k --cache ml --seeds 3
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch

from nerf_dfa.errors import UserError
from nerf_dfa.files import write_text
from nerf_dfa.training.cells import Cell, load_cell, run_cells, run_name
from nerf_dfa.training.devices import keep_freed_memory
from nerf_dfa.training.program import Parser, listed, positive, run_program
from nerf_dfa.training.settings import add_flags, given_flags, make_settings, read_config

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "recommender"

if find_spec("sklearn") is None:
    sys.exit("recommender: error: this needs scikit-learn: pip install -e '.[recommender]'")

from nerf_dfa.recommender import search, tables  # noqa: E402
from nerf_dfa.recommender.cache import Cache, make_cache, open_cache  # noqa: E402
from nerf_dfa.recommender.data import Data  # noqa: E402
from nerf_dfa.recommender.published import TABLES, Table  # noqa: E402
from nerf_dfa.recommender.settings import Settings, make_source  # noqa: E402
from nerf_dfa.recommender.task import train  # noqa: E402


def make_parser() -> Parser:
    parser = Parser(
        prog="python -m nerf_dfa.recommender",
        usage="%(prog)s [--config FILE] [flags] [--search], or --table NAME [flags]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", type=Path, help="file of 'key = value' lines; flags win over it")
    add_flags(parser, Settings)
    parser.add_argument("--data", type=Path, help="the data set's file or folder; not needed once the cache is made")
    parser.add_argument("--cache", type=Path, default=Path("data/cache"), help="folder of the cache [%(default)s]")
    parser.add_argument("--prepare", action="store_true", help="make the cache, and no more")
    parser.add_argument("--seeds", type=positive, default=1, help="how many, from 0 on [%(default)s]")
    parser.add_argument("--out", type=Path, default=Path("results/recommender"), help="results [%(default)s]")
    parser.add_argument("--save", action="store_true", help="keep checkpoints, from which an interrupted run goes on")
    parser.add_argument("--jobs", type=positive, default=1, help="runs at a time, one thread each [%(default)s]")
    parser.add_argument("--search", action="store_true", help="try learning rates and dropouts, by validation AUC")
    parser.add_argument("--lrs", help="of --search, with commas [1e-5 to 1e-3]")
    parser.add_argument("--dropouts", help="of --search, with commas [0 to 0.5 by 0.1]")
    parser.add_argument("--table", choices=TABLES, help="train a whole table of Launay et al. 2020, by its configs")
    parser.add_argument("--models", help="of --table, with commas [all]")
    parser.add_argument("--configs", type=Path, help="of --table [configs/recommender]")
    return parser


def run(arguments: argparse.Namespace) -> None:
    """What the arguments ask for. Raises UserError."""
    given = given_flags(arguments, Settings)
    table_only, search_only = ("models", "configs"), ("lrs", "dropouts")
    for flag in table_only if not arguments.table else ("config", *given, *search_only):
        if getattr(arguments, flag) is not None and not (arguments.table and flag in ("dataset", "epochs")):
            reason = "the table goes by its configs" if arguments.table else "only --table reads it"
            raise UserError(f"--{flag} has no effect here: {reason}; leave it out")
    for flag in () if arguments.search else search_only:
        if getattr(arguments, flag) is not None:
            raise UserError(f"--{flag} has no effect here: only --search reads it; leave it out")
    if sum(map(bool, (arguments.table, arguments.search, arguments.prepare))) > 1:
        raise UserError("--table, --search and --prepare are three commands; give one of them")
    if arguments.table:
        _run_table(arguments, given)
    else:
        _run_settings(arguments, given)


def _run_settings(arguments: argparse.Namespace, given: dict[str, str]) -> None:
    stated = read_config(arguments.config, Settings) if arguments.config else {}
    where = str(arguments.config) if arguments.config and not given else ""
    settings = make_settings(Settings, {**stated, **given}, where)
    grid = [_numbers(arguments, name, kind) for name, kind in (("lrs", search.LRS), ("dropouts", search.DROPOUTS))]
    _prepare(arguments, [settings])
    if arguments.prepare:
        return
    name = f"{settings.dataset}-{settings.model}-{settings.learning_rule}"
    if arguments.config:
        name = run_name(arguments.config.stem, given)
    if arguments.search:
        cells = search.grid_cells(name, settings, *grid, arguments.out / "search")
        _train(cells, arguments, arguments.out / "search", search.attempt)
        text = search.grid_markdown(name, cells, arguments.seeds)
        write_text(arguments.out / f"search_{name}.md", text)
        best = search.config_text(search.best_cell(cells, arguments.seeds), "Best of a search by validation AUC")
        write_text(arguments.out / f"{name}-best.txt", best)
        print(text)
        return
    cell = load_cell(name, settings, arguments.out)
    _train([cell], arguments, arguments.out)
    key = (settings.dataset, settings.model, settings.learning_rule)
    for kind in ["scores", "alignment"] if cell.runs[0]["alignment"] else ["scores"]:
        print(f"{name}, {arguments.seeds} seeds, {kind}: {tables.shown(kind, cell, key, arguments.seeds)}")
    if settings.dataset == "criteo":
        print(tables.PUBLISHED)


def _run_table(arguments: argparse.Namespace, given: dict[str, str]) -> None:
    table, dataset = TABLES[arguments.table], given.get("dataset", "criteo")
    models = listed("models", arguments.models or ",".join(table.models), table.models)
    table = Table(table.title, table.what, models, table.columns)
    make_settings(Settings, {"dataset": dataset})
    epochs = int(make_settings(Settings, {"epochs": given["epochs"]}).epochs) if "epochs" in given else None
    cells = list(tables.table_cells(table, dataset, arguments.configs or CONFIGS, arguments.out, epochs))
    _prepare(arguments, [cell.settings for cell in cells])
    _train(cells, arguments, arguments.out)
    text = tables.markdown(arguments.table, table, dataset, cells, arguments.seeds)
    write_text(arguments.out / f"table_{arguments.table}_{dataset}.md", text)
    print(text)


def _prepare(arguments: argparse.Namespace, settings: Sequence[Settings]) -> None:
    """Makes the cache, or checks that the one that is there is of these settings."""
    kinds = {(s.dataset, s.min_count) for s in settings}
    if len(kinds) > 1:
        raise UserError(f"the configs differ in dataset or min_count: {', '.join(map(str, sorted(kinds)))}")
    dataset, min_count = kinds.pop()
    if arguments.data is not None:
        cache = make_cache(make_source(dataset, arguments.data), arguments.cache, min_count)
    else:
        cache = open_cache(arguments.cache)
    found = cache.made_of["format"], cache.made_of["min_count"]
    if found != (dataset, min_count):
        raise UserError(
            f"{arguments.cache} is a cache of {found[0]} with min_count = {found[1]}, and {dataset} with "
            f"min_count = {min_count} is asked for; give another --cache"
        )
    Data(cache)
    _mark(arguments.out, cache)


def _mark(out: Path, cache: Cache) -> None:
    """Notes in the folder of results what data they are of, or checks that they are of the same."""
    path, text = out / "data.json", json.dumps(cache.made_of, indent=1) + "\n"
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    elif path.read_text(encoding="utf-8") != text:
        raise UserError(f"{out} has results of other data ({path}); move it away, or give another --out")


def _train(
    cells: Sequence[Cell], arguments: argparse.Namespace, out: Path, attempt: Callable[..., dict] | None = None
) -> None:
    of_cache = partial(train, cache=arguments.cache)
    one = of_cache if attempt is None else partial(attempt, of_cache)
    run_cells(cells, arguments.seeds, one, out, tables.score, arguments.jobs, arguments.save)


def _numbers(arguments: argparse.Namespace, name: str, default: Sequence[float]) -> tuple[float, ...]:
    """A flag's numbers, each once and checked as the setting that it is of ("lrs": lr)."""
    text = getattr(arguments, name)
    if text is None:
        return tuple(default)
    key = name.removesuffix("s")
    return tuple(dict.fromkeys(getattr(make_settings(Settings, {key: part.strip()}), key) for part in text.split(",")))


def main(argv: list[str] | None = None) -> int:
    """Exit status 0, 2 for a user's mistake (one line), 130 when interrupted."""
    torch.set_num_threads(1)  # of more, these small products gain nothing
    return run_program("recommender", lambda: run(make_parser().parse_args(argv)))


if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(main())
