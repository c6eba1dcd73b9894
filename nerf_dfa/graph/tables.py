"""The paper's tables: their cells, and the numbers of the cells beside the published ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nerf_dfa.errors import UserError
from nerf_dfa.graph.published import ACCURACY, ALIGNMENT, AUC_AP, Table
from nerf_dfa.graph.settings import Settings
from nerf_dfa.training.cells import Cell, alignment, cost, line, load_cell, mean_std
from nerf_dfa.training.settings import make_settings, read_config

SCORED = "mean ± standard deviation over {seeds} seeds, each run at the epoch of best validation"
ALIGNED = "layer by layer at the end of training, mean ± standard deviation over nodes, both the mean of {seeds} seeds"


def table_cells(
    table: Table, datasets: Sequence[str], configs: Path, out: Path, epochs: int | None = None
) -> Iterator[Cell]:
    """The table's cells by the configs DATASET-MODEL-COLUMN.txt; epochs: in place of the configs'."""
    for dataset in datasets:
        for model in table.models:
            for column in table.columns:
                name = f"{dataset}-{model}-{column}"
                path = configs / f"{name}.txt"
                settings = make_settings(Settings, read_config(path, Settings), str(path))
                if (settings.dataset, settings.model) != (dataset, model):
                    raise UserError(
                        f"{path}: it is of {settings.dataset} and {settings.model}, its name says otherwise"
                    )
                yield load_cell(name, replace(settings, epochs=epochs or settings.epochs), out)


def markdown(name: str, table: Table, datasets: Sequence[str], cells: Sequence[Cell], seeds: int) -> str:
    """Rows are models, a column for every data set and rule."""
    by_name = {cell.name: cell for cell in cells}
    heads = [f"{dataset} {column}" for dataset in datasets for column in table.columns]
    lines = [f"# Table {name}: {table.title}", "", line(["model", *heads]), line(["---"] * (1 + len(heads)))]
    for model in table.models:
        keys = [(dataset, model, column) for dataset in datasets for column in table.columns]
        lines.append(line([model, *(shown(table.what, by_name["-".join(key)], key, seeds) for key in keys)]))
    rules = sorted({f"{c.settings.learning_rule} ({c.name})" for c in cells if c.name.endswith("-best")})
    measured = ALIGNED if table.what == "alignment" else SCORED
    lines += ["", f"{table.title}: {measured.format(seeds=seeds)}; in brackets what Launay et al. 2020 published."]
    lines += [f"best: {', '.join(rules)}."] if rules else []
    lines += [cost(cells, seeds)]
    return "\n".join(lines) + "\n"


def shown(what: str, cell: Cell, key: tuple[str, str, str], seeds: int) -> str:
    """A cell's numbers with the published ones; key: data set, model, column."""
    if what == "accuracy":
        text = mean_std([100 * value for value in cell.values("test_accuracy", seeds)], 1)
        return text + (f" ({ACCURACY[key]:.1f})" if key in ACCURACY else "")
    if what == "links":
        text = " / ".join(mean_std(cell.values(f"test_{score}", seeds), 3) for score in ("auc", "ap"))
        return text + (" ({:.3f} / {:.3f})".format(*AUC_AP[key]) if key in AUC_AP else "")
    text = ", ".join(alignment(cell, seeds))
    return text + (" ({:.2f} ± {:.2f})".format(*ALIGNMENT[key]) if key in ALIGNMENT else "")


def score(run: dict[str, Any]) -> float:
    """What a run is told by as it ends."""
    return run["test_accuracy"] if "test_accuracy" in run else run["test_auc"]
