"""Learns a graph's nodes or edges by a learning rule of your choice.

python -m nerf_dfa.graph --config configs/graph/cora-gcn-dfa.txt --seeds 10
python -m nerf_dfa.graph --table 3 --datasets cora,citeseer --seeds 10 --jobs 2
python -m nerf_dfa.graph --tsne gcn --datasets cora
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
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

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "graph"

if find_spec("torch_geometric") is None or find_spec("sklearn") is None:
    sys.exit("graph: error: this needs torch_geometric and scikit-learn: pip install -e '.[graph]'")

from nerf_dfa.graph import tables  # noqa: E402
from nerf_dfa.graph.figure import RULES, tsne_figure  # noqa: E402
from nerf_dfa.graph.models import MODELS  # noqa: E402
from nerf_dfa.graph.planetoid import DATASETS, read_planetoid  # noqa: E402
from nerf_dfa.graph.published import TABLES, Table  # noqa: E402
from nerf_dfa.graph.settings import Settings  # noqa: E402
from nerf_dfa.graph.task import train  # noqa: E402


def make_parser() -> Parser:
    parser = Parser(
        prog="python -m nerf_dfa.graph",
        usage="%(prog)s [--config FILE] [flags], or --table NAME [flags], or --tsne MODEL [flags]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", type=Path, help="file of 'key = value' lines; flags win over it")
    add_flags(parser, Settings)
    parser.add_argument("--seeds", type=positive, default=1, help="how many, from 0 on [%(default)s]")
    parser.add_argument("--root", default="data/planetoid", help="folder with Cora/raw, CiteSeer/raw ... [%(default)s]")
    parser.add_argument("--download", action="store_true", help="get data sets that --root lacks")
    parser.add_argument("--out", type=Path, default=Path("results/graph"), help="folder of results [%(default)s]")
    parser.add_argument("--save", action="store_true", help="keep every run's weights as a checkpoint")
    parser.add_argument("--jobs", type=positive, default=1, help="runs at a time, one thread each [%(default)s]")
    parser.add_argument("--table", choices=TABLES, help="train a whole table of Launay et al. 2020, by its configs")
    parser.add_argument("--tsne", choices=MODELS, help="figure of this model's hidden layer under shallow, bp and dfa")
    parser.add_argument("--datasets", help="of --table and --tsne, with commas [cora,citeseer]")
    parser.add_argument("--models", help="of --table, with commas [all]")
    parser.add_argument("--configs", type=Path, help="of --table and --tsne [configs/graph]")
    return parser


def run(arguments: argparse.Namespace) -> None:
    """What the arguments ask for. Raises UserError."""
    given = given_flags(arguments, Settings)
    whole = arguments.table or arguments.tsne
    if arguments.table and arguments.tsne:
        raise UserError("--table and --tsne are two commands; give one of them")
    for flag in ("config", *given) if whole else ("datasets", "models", "configs"):
        if getattr(arguments, flag) is not None and not (whole and flag == "epochs"):
            reason = "the table and the figure go by their configs" if whole else "only --table and --tsne read it"
            raise UserError(f"--{flag} has no effect here: {reason}; leave it out")
    for flag in ("models", "seeds", "jobs", "save") if arguments.tsne else ():
        if getattr(arguments, flag) != make_parser().get_default(flag):
            raise UserError(f"--{flag} has no effect here: --tsne trains its model once by each rule; leave it out")
    if not whole:
        _run_one(arguments, given)
        return
    datasets = listed("datasets", arguments.datasets or "cora,citeseer", tuple(DATASETS))
    epochs = int(make_settings(Settings, {"epochs": given["epochs"]}).epochs) if "epochs" in given else None
    _check_data(datasets, arguments)
    configs = arguments.configs or CONFIGS
    if arguments.tsne:
        _run_tsne(arguments, datasets, configs, epochs)
    else:
        _run_table(arguments, datasets, configs, epochs)


def _run_one(arguments: argparse.Namespace, given: dict[str, str]) -> None:
    stated = read_config(arguments.config, Settings) if arguments.config else {}
    where = str(arguments.config) if arguments.config and not given else ""
    settings = make_settings(Settings, {**stated, **given}, where)
    _check_data((settings.dataset,), arguments)
    name = f"{settings.dataset}-{settings.model}-{settings.learning_rule}"
    if arguments.config:
        name = run_name(arguments.config.stem, given)
    cell = load_cell(name, settings, arguments.out)
    _train([cell], arguments)
    key = (settings.dataset, settings.model, settings.learning_rule)
    kinds = ["links" if settings.model == "gae" else "accuracy"]
    kinds += ["alignment"] if cell.runs[0]["alignment"] else []
    for kind in kinds:
        print(f"{name}, {arguments.seeds} seeds, {kind}: {tables.shown(kind, cell, key, arguments.seeds)}")


def _run_table(arguments: argparse.Namespace, datasets: tuple[str, ...], configs: Path, epochs: int | None) -> None:
    table = TABLES[arguments.table]
    models = listed("models", arguments.models or ",".join(table.models), table.models)
    table = Table(table.title, table.what, models, table.columns)
    cells = list(tables.table_cells(table, datasets, configs, arguments.out, epochs))
    _train(cells, arguments)
    text = tables.markdown(arguments.table, table, datasets, cells, arguments.seeds)
    write_text(arguments.out / f"table_{arguments.table}.md", text)
    print(text)


def _train(cells: Sequence[Cell], arguments: argparse.Namespace) -> None:
    of_root = partial(train, root=arguments.root)
    run_cells(cells, arguments.seeds, of_root, arguments.out, tables.score, arguments.jobs, arguments.save)


def _run_tsne(arguments: argparse.Namespace, datasets: tuple[str, ...], configs: Path, epochs: int | None) -> None:
    columns = tuple(rule for rule in RULES if arguments.tsne != "gae" or rule != "shallow")
    for dataset in datasets:
        table = Table("", "", (arguments.tsne,), columns)
        cells = tables.table_cells(table, (dataset,), configs, arguments.out / "tsne", epochs)
        panels = dict(zip(columns, (cell.settings for cell in cells), strict=True))
        path = arguments.out / f"tsne-{dataset}-{arguments.tsne}.png"
        tsne_figure(panels, arguments.root, 0, path)
        print(path)


def _check_data(datasets: tuple[str, ...], arguments: argparse.Namespace) -> None:
    """Reads every data set before the first run, so that what is wrong is told at once."""
    for dataset in datasets:
        read_planetoid(dataset, arguments.root, arguments.download)


def main(argv: list[str] | None = None) -> int:
    """Exit status 0, 2 for a user's mistake (one line), 130 when interrupted."""
    torch.set_num_threads(1)  # of more, these small products gain nothing
    return run_program("graph", lambda: run(make_parser().parse_args(argv)))


if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(main())
