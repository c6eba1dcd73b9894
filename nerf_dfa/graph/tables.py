"""Cells (one setting, several seeds) on the disk, and tables of them beside the published numbers.

Every cell is a JSON file of its own, written after every run, so that the same command goes on where it stopped, and
tables that have a cell in common train it once.
"""

from __future__ import annotations

import json
import multiprocessing
import signal
import statistics
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from nerf_dfa.benchmarks.measure import machine
from nerf_dfa.errors import UserError
from nerf_dfa.files import write_text
from nerf_dfa.graph.published import ACCURACY, ALIGNMENT, AUC_AP, Table
from nerf_dfa.graph.settings import Settings, make_settings, read_config
from nerf_dfa.graph.task import train
from nerf_dfa.training.devices import keep_freed_memory

SCORED = "mean ± standard deviation over {seeds} seeds, each run at the epoch of best validation"
ALIGNED = "layer by layer at the end of training, mean ± standard deviation over nodes, both the mean of {seeds} seeds"


@dataclass
class Cell:
    """One setting, and a run (what `train` gives) for every seed that is done."""

    name: str
    settings: Settings
    runs: dict[int, dict[str, Any]] = field(default_factory=dict)

    def values(self, key: str, seeds: int) -> list[float]:
        return [self.runs[seed][key] for seed in range(seeds)]


def load_cell(name: str, settings: Settings, out: Path) -> Cell:
    """The cell with the runs that out/NAME.json has. Raises UserError for a file of other settings."""
    path = out / f"{name}.json"
    if not path.exists():
        return Cell(name, settings)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        same = found["settings"] == asdict(settings)
        runs = {int(seed): run for seed, run in found["runs"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: cannot be continued ({type(error).__name__}: {error})") from None
    if not same:
        raise UserError(f"{path} is of other settings; move it away, or give another --out")
    return Cell(name, settings, runs)


def run_cells(cells: Sequence[Cell], seeds: int, root: str, out: Path, jobs: int = 1, save: bool = False) -> None:
    """Trains what the cells do not have yet, `jobs` runs at a time in processes of their own, one thread each.

    save: each run's last weights become out/NAME/seed_N/EPOCHS.tar.
    """
    out.mkdir(parents=True, exist_ok=True)
    todo = [(cell, seed) for cell in cells for seed in range(seeds) if seed not in cell.runs]
    folders = [out / cell.name / f"seed_{seed}" if save else None for cell, seed in todo]
    about = machine()

    def done(number: int, cell: Cell, seed: int, run: dict[str, Any]) -> None:
        cell.runs[seed] = run
        contents = {"settings": asdict(cell.settings), "machine": about, "runs": dict(sorted(cell.runs.items()))}
        write_text(out / f"{cell.name}.json", json.dumps(contents, indent=1) + "\n")
        score = f"{run.get('test_accuracy', run.get('test_auc')):.3f}"
        print(f"{number}/{len(todo)}: {cell.name}, seed {seed}: {score}, {run['seconds']} s", file=sys.stderr)

    if jobs == 1 or not todo:
        for number, ((cell, seed), folder) in enumerate(zip(todo, folders, strict=True), 1):
            done(number, cell, seed, train(cell.settings, root, seed, folder))
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(todo)), mp_context=context, initializer=_start_worker) as pool:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # which they inherit: only their trainers heed Ctrl-C
        futures: dict[Future, tuple[Cell, int]] = {
            pool.submit(train, cell.settings, root, seed, folder): (cell, seed)
            for (cell, seed), folder in zip(todo, folders, strict=True)
        }
        signal.signal(signal.SIGINT, before)
        try:
            for number, future in enumerate(as_completed(futures), 1):
                done(number, *futures[future], future.result())
        finally:
            pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    torch.set_num_threads(1)
    keep_freed_memory()


def table_cells(
    table: Table, datasets: Sequence[str], configs: Path, out: Path, epochs: int | None = None
) -> Iterator[Cell]:
    """The table's cells by the configs DATASET-MODEL-COLUMN.txt; epochs: in place of the configs'."""
    for dataset in datasets:
        for model in table.models:
            for column in table.columns:
                name = f"{dataset}-{model}-{column}"
                path = configs / f"{name}.txt"
                settings = make_settings(read_config(path), str(path))
                if (settings.dataset, settings.model) != (dataset, model):
                    raise UserError(
                        f"{path}: it is of {settings.dataset} and {settings.model}, its name says otherwise"
                    )
                yield load_cell(name, replace(settings, epochs=epochs or settings.epochs), out)


def markdown(name: str, table: Table, datasets: Sequence[str], cells: Sequence[Cell], seeds: int) -> str:
    """Rows are models, a column for every data set and rule."""
    by_name = {cell.name: cell for cell in cells}
    heads = [f"{dataset} {column}" for dataset in datasets for column in table.columns]
    lines = [f"# Table {name}: {table.title}", "", _line(["model", *heads]), _line(["---"] * (1 + len(heads)))]
    for model in table.models:
        keys = [(dataset, model, column) for dataset in datasets for column in table.columns]
        lines.append(_line([model, *(shown(table.what, by_name["-".join(key)], key, seeds) for key in keys)]))
    rules = sorted({f"{c.settings.learning_rule} ({c.name})" for c in cells if c.name.endswith("-best")})
    seconds = sum(run["seconds"] for cell in cells for seed, run in cell.runs.items() if seed < seeds)
    measured = ALIGNED if table.what == "alignment" else SCORED
    lines += ["", f"{table.title}: {measured.format(seeds=seeds)}; in brackets what Launay et al. 2020 published."]
    lines += [f"best: {', '.join(rules)}."] if rules else []
    about = machine()
    lines += [f"{seeds * len(cells)} runs, {seconds:.0f} s of one thread on {about['cpu']}, torch {about['torch']}."]
    return "\n".join(lines) + "\n"


def shown(what: str, cell: Cell, key: tuple[str, str, str], seeds: int) -> str:
    """A cell's numbers with the published ones; key: data set, model, column."""
    if what == "accuracy":
        text = mean_std([100 * value for value in cell.values("test_accuracy", seeds)], 1)
        return text + (f" ({ACCURACY[key]:.1f})" if key in ACCURACY else "")
    if what == "links":
        text = " / ".join(mean_std(cell.values(f"test_{score}", seeds), 3) for score in ("auc", "ap"))
        return text + (" ({:.3f} / {:.3f})".format(*AUC_AP[key]) if key in AUC_AP else "")
    layers = list(zip(*(cell.runs[seed]["alignment"] for seed in range(seeds)), strict=True))
    parts = [f"{_mean(layer, 'mean'):.2f} ± {_mean(layer, 'std'):.2f}" for layer in layers]
    return ", ".join(parts) + (" ({:.2f} ± {:.2f})".format(*ALIGNMENT[key]) if key in ALIGNMENT else "")


def mean_std(values: Sequence[float], digits: int) -> str:
    """Mean ± sample standard deviation (0 for one value)."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.{digits}f} ± {deviation:.{digits}f}"


def _mean(layer: Sequence[dict[str, float]], key: str) -> float:
    return statistics.fmean(run[key] for run in layer)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
