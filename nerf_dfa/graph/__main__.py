"""Learns a graph's nodes or edges by a learning rule of your choice.

python -m nerf_dfa.graph --config configs/graph/cora-gcn-dfa.txt --seeds 10
python -m nerf_dfa.graph --table 3 --datasets cora,citeseer --seeds 10 --jobs 2
python -m nerf_dfa.graph --tsne gcn --datasets cora
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import torch

from nerf_dfa.errors import UserError
from nerf_dfa.training.devices import keep_freed_memory

INTERRUPTED = 130  # exit status of a program that Ctrl-C ended
CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "graph"

if find_spec("torch_geometric") is None or find_spec("sklearn") is None:
    sys.exit("graph: error: this needs torch_geometric and scikit-learn: pip install 'nerf_dfa[graph]'")

from nerf_dfa.graph import tables  # noqa: E402
from nerf_dfa.graph.figure import RULES, tsne_figure  # noqa: E402
from nerf_dfa.graph.models import MODELS  # noqa: E402
from nerf_dfa.graph.planetoid import DATASETS, read_planetoid  # noqa: E402
from nerf_dfa.graph.published import TABLES, Table  # noqa: E402
from nerf_dfa.graph.settings import CHOICES, KINDS, MEANING, Settings, make_settings, read_config  # noqa: E402


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line and raise UserError."""

    def error(self, message: str) -> NoReturn:
        raise UserError(" ".join(message.split()))


def make_parser() -> Parser:
    parser = Parser(
        prog="python -m nerf_dfa.graph",
        usage="%(prog)s [--config FILE] [flags], or --table NAME [flags], or --tsne MODEL [flags]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", type=Path, help="file of 'key = value' lines; flags win over it")
    for field in fields(Settings):
        choices = f": {', '.join(CHOICES[field.name])}" if field.name in CHOICES else ""
        about = f"{MEANING[field.name]}{choices} [{field.default}]"
        parser.add_argument(f"--{field.name}", metavar=field.name.split("_")[-1].upper(), help=about)
    parser.add_argument("--seeds", type=_positive, default=1, help="how many, from 0 on [%(default)s]")
    parser.add_argument("--root", default="data/planetoid", help="folder with Cora/raw, CiteSeer/raw ... [%(default)s]")
    parser.add_argument("--download", action="store_true", help="get data sets that --root lacks")
    parser.add_argument("--out", type=Path, default=Path("results/graph"), help="folder of results [%(default)s]")
    parser.add_argument("--save", action="store_true", help="keep every run's weights as a checkpoint")
    parser.add_argument("--jobs", type=_positive, default=1, help="runs at a time, one thread each [%(default)s]")
    parser.add_argument("--table", choices=TABLES, help="train a whole table of Launay et al. 2020, by its configs")
    parser.add_argument("--tsne", choices=MODELS, help="figure of this model's hidden layer under shallow, bp and dfa")
    parser.add_argument("--datasets", help="of --table and --tsne, with commas [cora,citeseer]")
    parser.add_argument("--models", help="of --table, with commas [all]")
    parser.add_argument("--configs", type=Path, help="of --table and --tsne [configs/graph]")
    return parser


def run(arguments: argparse.Namespace) -> None:
    """What the arguments ask for. Raises UserError."""
    given = {key: getattr(arguments, key) for key in KINDS if getattr(arguments, key) is not None}
    whole = arguments.table or arguments.tsne
    if arguments.table and arguments.tsne:
        raise UserError("--table and --tsne are two commands; give one of them")
    for flag in ("config", *given) if whole else ("datasets", "models", "configs"):
        if getattr(arguments, flag) is not None and not (whole and flag == "epochs"):
            reason = "the table and the figure go by their configs" if whole else "only --table and --tsne read it"
            raise UserError(f"--{flag} has no effect here: {reason}; leave it out")
    if not whole:
        _run_one(arguments, given)
        return
    datasets = _listed("datasets", arguments.datasets or "cora,citeseer", tuple(DATASETS))
    epochs = int(make_settings({"epochs": given["epochs"]}).epochs) if "epochs" in given else None
    _check_data(datasets, arguments)
    configs = arguments.configs or CONFIGS
    if arguments.tsne:
        _run_tsne(arguments, datasets, configs, epochs)
    else:
        _run_table(arguments, datasets, configs, epochs)


def _run_one(arguments: argparse.Namespace, given: dict[str, str]) -> None:
    stated = read_config(arguments.config) if arguments.config else {}
    settings = make_settings({**stated, **given}, str(arguments.config) if arguments.config and not given else "")
    _check_data((settings.dataset,), arguments)
    name = f"{settings.dataset}-{settings.model}-{settings.learning_rule}"
    if arguments.config:
        name = "-".join([arguments.config.stem, *(f"{key}={value}" for key, value in given.items())])
    cell = tables.load_cell(name, settings, arguments.out)
    tables.run_cells([cell], arguments.seeds, arguments.root, arguments.out, arguments.jobs, arguments.save)
    key = (settings.dataset, settings.model, settings.learning_rule)
    kinds = ["links" if settings.model == "gae" else "accuracy"]
    kinds += ["alignment"] if cell.runs[0]["alignment"] else []
    for kind in kinds:
        print(f"{name}, {arguments.seeds} seeds, {kind}: {tables.shown(kind, cell, key, arguments.seeds)}")


def _run_table(arguments: argparse.Namespace, datasets: tuple[str, ...], configs: Path, epochs: int | None) -> None:
    table = TABLES[arguments.table]
    models = _listed("models", arguments.models or ",".join(table.models), table.models)
    table = Table(table.title, table.what, models, table.columns)
    cells = list(tables.table_cells(table, datasets, configs, arguments.out, epochs))
    tables.run_cells(cells, arguments.seeds, arguments.root, arguments.out, arguments.jobs, arguments.save)
    text = tables.markdown(arguments.table, table, datasets, cells, arguments.seeds)
    tables.write_text(arguments.out / f"table_{arguments.table}.md", text)
    print(text)


def _run_tsne(arguments: argparse.Namespace, datasets: tuple[str, ...], configs: Path, epochs: int | None) -> None:
    if arguments.models is not None:
        raise UserError("--models has no effect here: --tsne names its model; leave it out")
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


def _listed(flag: str, text: str, known: tuple[str, ...]) -> tuple[str, ...]:
    items = tuple(dict.fromkeys(item.strip() for item in text.split(",")))
    for item in items:
        if item not in known:
            raise UserError(f"--{flag} {text}: unknown '{item}'; there are {', '.join(known)}")
    return items


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def main(argv: list[str] | None = None) -> int:
    """Exit status 0, 2 for a user's mistake (one line), 130 when interrupted."""
    try:
        arguments = make_parser().parse_args(argv)
        torch.set_num_threads(1)  # of more, these small products gain nothing
        run(arguments)
    except UserError as error:
        print(f"graph: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # of reading, each is a UserError
        print(f"graph: error: cannot write {error.filename or 'results'}: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("graph: interrupted; the same command goes on from the last finished run", file=sys.stderr)
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(main())
