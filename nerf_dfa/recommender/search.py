"""Grid search of learning rate and dropout by the validation AUC."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import fields, replace
from itertools import product
from pathlib import Path
from typing import Any

from nerf_dfa.errors import UserError
from nerf_dfa.recommender.settings import Settings
from nerf_dfa.training.cells import Cell, Diverged, Train, line, load_cell, mean_std

# Launay et al. 2020 searched 1e-4 ... 1e-3 by 1e-4, and their best for direct feedback, 5e-5, lies below.
LRS = (1e-5, 2e-5, 5e-5, *(i * 1e-4 for i in range(1, 11)))
DROPOUTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)

SCORES = ("val_auc", "val_logloss", "test_auc", "test_logloss")


def grid_cells(name: str, settings: Settings, lrs: Sequence[float], dropouts: Sequence[float], out: Path) -> list[Cell]:
    """A cell for every pair; of fm, which has no dropout, for every learning rate."""
    dropouts = dropouts if settings.model != "fm" else (settings.dropout,)
    return [
        load_cell(f"{name}-lr={lr:g}-dropout={dropout:g}", replace(settings, lr=lr, dropout=dropout), out)
        for lr, dropout in product(lrs, dropouts)
    ]


def attempt(train: Train, settings: Settings, seed: int, folder: Path | None) -> dict[str, Any]:
    """A run of the grid; one that diverged has scores that are NaN."""
    start = time.perf_counter()
    try:
        return train(settings, seed, folder)
    except Diverged:
        return {**dict.fromkeys(SCORES, math.nan), "alignment": [], "seconds": round(time.perf_counter() - start, 2)}


def best_cell(cells: Sequence[Cell], seeds: int) -> Cell:
    """The one with the highest mean validation AUC (the first of equals), none of whose runs diverged."""
    values = {cell.name: statistics.fmean(cell.values("val_auc", seeds)) for cell in cells}
    finite = [cell for cell in cells if math.isfinite(values[cell.name])]
    if not finite:
        raise UserError("training diverged at every pair of the search; give lower --lrs")
    return max(finite, key=lambda cell: values[cell.name])


def grid_markdown(name: str, cells: Sequence[Cell], seeds: int) -> str:
    """Validation AUC of the grid, learning rates down, dropouts across; then the best pair, with its test scores."""
    lrs = list(dict.fromkeys(cell.settings.lr for cell in cells))
    dropouts = list(dict.fromkeys(cell.settings.dropout for cell in cells))
    values = {(c.settings.lr, c.settings.dropout): mean_std(c.values("val_auc", seeds), 4) for c in cells}
    lines = [f"# Search: {name}", "", line(["lr", *(f"dropout {dropout:g}" for dropout in dropouts)])]
    lines.append(line(["---"] * (1 + len(dropouts))))
    lines += [line([f"{lr:g}", *(values[lr, dropout] for dropout in dropouts)]) for lr in lrs]
    best = best_cell(cells, seeds)
    test = " / ".join(mean_std(best.values(f"test_{score}", seeds), 4) for score in ("auc", "logloss"))
    lines += ["", f"Validation AUC, mean ± standard deviation over {seeds} seeds."]
    lines += [f"Best: lr = {best.settings.lr:g}, dropout = {best.settings.dropout:g}; test AUC / log loss {test}."]
    return "\n".join(lines) + "\n"


def config_text(cell: Cell, comment: str) -> str:
    """The cell's settings as a config file, defaults left out."""
    given = [(f.name, getattr(cell.settings, f.name)) for f in fields(cell.settings)]
    defaults = {f.name: f.default for f in fields(cell.settings)}
    always = ("dataset", "model", "learning_rule", "lr", "dropout")
    kept = [f"{key} = {value}" for key, value in given if value != defaults[key] or key in always]
    if cell.settings.model == "fm":
        kept = [text for text in kept if not text.startswith("dropout")]
    return "\n".join([f"# {comment}", *kept]) + "\n"
