"""The paper's tables: their cells, and the numbers of the cells beside the published ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nerf_dfa.errors import UserError
from nerf_dfa.recommender.published import ALIGNMENT, SCORES, Table
from nerf_dfa.recommender.settings import config_settings
from nerf_dfa.training.cells import Cell, alignment, cost, line, load_cell, mean_std

SCORED = "of the test part, mean ± standard deviation over {seeds} seeds, each run with its best weights by validation"
PUBLISHED = "in brackets what Launay et al. 2020 published, of the whole of Criteo"
ALIGNED = (
    "on validation rows with the best weights, layers in the order of the table in nerf_dfa/recommender/models.py, "
    "mean ± standard deviation over rows, both the mean of {seeds} seeds; layers of one unit, where a cosine is a "
    "sign, are left out (of these models none has any)"
)


def table_cells(table: Table, dataset: str, configs: Path, out: Path, epochs: int | None = None) -> Iterator[Cell]:
    """The table's cells by the configs DATASET-MODEL-COLUMN.txt; epochs: in place of the configs'."""
    for key in table.keys(dataset):
        name = "-".join(key)
        settings = config_settings(configs / f"{name}.txt")
        if (settings.dataset, settings.model) != key[:2]:
            raise UserError(
                f"{configs / name}.txt: it is of {settings.dataset} and {settings.model}, its name says otherwise"
            )
        yield load_cell(name, replace(settings, epochs=epochs or settings.epochs), out)


def markdown(name: str, table: Table, dataset: str, cells: Sequence[Cell], seeds: int) -> str:
    """Rows are models, columns rules."""
    by_name = {cell.name: cell for cell in cells}
    lines = [f"# Table {name}: {table.title}, {dataset}", "", line(["model", *table.columns])]
    lines.append(line(["---"] * (1 + len(table.columns))))
    for model in table.models:
        keys = [(dataset, model, column) for column in table.columns]
        shown_cells = [
            shown(table.what, by_name["-".join(k)], k, seeds) if "-".join(k) in by_name else "" for k in keys
        ]
        lines.append(line([model, *shown_cells]))
    measured = (ALIGNED if table.what == "alignment" else SCORED).format(seeds=seeds)
    published = f"; {PUBLISHED}" * (dataset == "criteo")
    lines += ["", f"{table.title}: {measured}{published}."]
    lines += [cost(cells, seeds)]
    return "\n".join(lines) + "\n"


def shown(what: str, cell: Cell, key: tuple[str, str, str], seeds: int) -> str:
    """A cell's numbers with the published ones; key: data set, model, column."""
    if what == "scores":
        text = " / ".join(mean_std(cell.values(f"test_{score}", seeds), 4) for score in ("auc", "logloss"))
        return text + (" ({:.4f} / {:.4f})".format(*SCORES[key]) if key in SCORES else "")
    text = ", ".join(alignment(cell, seeds))
    return text + (" ({:.2f} ± {:.2f})".format(*ALIGNMENT[key]) if key in ALIGNMENT else "")


def score(run: dict[str, Any]) -> float:
    """What a run is told by as it ends."""
    return run["test_auc"]
