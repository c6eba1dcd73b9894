"""Tables of runs: their cells, and what was measured beside the published numbers."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nerf_dfa.language.published import PERPLEXITY, Table
from nerf_dfa.language.settings import Settings
from nerf_dfa.training.cells import Cell, cost, line, load_cell, mean_std
from nerf_dfa.training.settings import make_settings, read_config

HEADS = (
    "run",
    "validation perplexity",
    "test perplexity",
    "test, per word",
    "test, bits per byte",
    "step, ms",
    "alignment of the feedback points, lowest first",
)


def table_cells(table: Table, given: Mapping[str, str], configs: Path, out: Path) -> Iterator[Cell]:
    """The table's cells by their configs; given: settings in place of the configs'."""
    for name in table.runs:
        path = configs / f"{name}.txt"
        settings = make_settings(Settings, {**read_config(path, Settings), **given}, str(path))
        yield load_cell(name, settings, out)


def score(run: Mapping[str, Any]) -> float:
    """The number of a run that tells most."""
    return run["val_perplexity"]


def markdown(name: str, table: Table, cells: Sequence[Cell], seeds: int) -> str:
    """A row for every run."""
    some = cells[0].settings
    lines = [f"# Table {name}: {table.title}", "", line(HEADS), line(["---"] * len(HEADS))]
    lines += [line(row(cell, seeds)) for cell in cells]
    lines += [
        "",
        f"{some.text}, {some.vocabulary} tokens; {some.layers} layers of {some.width}; {some.steps} steps of "
        f"{some.batch} x {some.chunk} tokens; mean ± standard deviation over {seeds} seeds, each run at its best "
        "validation; perplexity per token, in brackets what Launay et al. 2020 published.",
        cost(cells, seeds),
    ]
    return "\n".join(lines) + "\n"


def row(cell: Cell, seeds: int) -> list[str]:
    """A run's numbers."""
    published = f" ({PERPLEXITY[cell.name]:g})" if cell.name in PERPLEXITY else ""
    layers = zip(*(cell.runs[seed]["alignment"] for seed in range(seeds)), strict=True)
    return [
        cell.name,
        mean_std(cell.values("val_perplexity", seeds), 1) + published,
        mean_std(cell.values("test_perplexity", seeds), 1),
        mean_std(cell.values("test_word_perplexity", seeds), 1),
        mean_std(cell.values("test_bits_per_byte", seeds), 3),
        f"{statistics.fmean(cell.values('step_ms', seeds)):.0f}",
        ", ".join(f"{statistics.fmean(point['mean'] for point in layer):.2f}" for layer in layers) or "-",
    ]
