"""Cells of a table (one setting, several seeds), trained and kept on the disk.

Every cell is a JSON file of its own, written after every run, so that the same command goes on where it stopped, and
tables that have a cell in common train it once.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nerf_dfa.errors import UserError
from nerf_dfa.files import alone, write_text
from nerf_dfa.machine import machine
from nerf_dfa.training.workers import Routine, drive

# (settings, seed, folder for checkpoints or None) -> what was measured: numbers for JSON, "seconds" among them.
Train = Callable[[Any, int, Path | None], dict[str, Any]]

LONGEST = 200  # bytes of a run's name: files may have 255, and are named by it with something before and behind


class Diverged(UserError):
    """Training whose loss was never finite, which leaves nothing to measure."""


@dataclass
class Cell:
    """One setting (a dataclass), and a run (what `Train` gives) for every seed that is done."""

    name: str
    settings: Any
    runs: dict[int, dict[str, Any]] = field(default_factory=dict)

    def values(self, key: str, seeds: int) -> list[float]:
        return [self.runs[seed][key] for seed in range(seeds)]


def run_name(stem: str, given: Mapping[str, str]) -> str:
    """A run's name, of its config and what is given besides; a long one is cut, and ends in a hash of all of it."""
    name = "-".join([stem, *(f"{key}={value}" for key, value in given.items())])
    whole = os.fsencode(name)
    if len(whole) <= LONGEST:
        return name
    digest = hashlib.sha256(whole).hexdigest()[:12]
    return f"{whole[: LONGEST - 13].decode(errors='ignore')}-{digest}"


def load_cell(name: str, settings: Any, out: Path) -> Cell:
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
        checkpoints = f" and {out / name}/" if (out / name).is_dir() else ""
        raise UserError(f"{path} is of other settings; move it{checkpoints} away, or give another --out")
    return Cell(name, settings, _finite(runs, math.nan))


def run_cells(
    cells: Sequence[Cell],
    seeds: int,
    train: Train,
    out: Path,
    score: Callable[[dict[str, Any]], float],
    jobs: int = 1,
    save: bool = False,
) -> None:
    """Trains what the cells do not have yet, `jobs` runs at a time, in processes of one thread each if above 1.

    score: of a run, shown as it ends. save: a run's checkpoints go to out/NAME/seed_N.
    """
    out.mkdir(parents=True, exist_ok=True)
    todo = [(cell, seed) for cell in cells for seed in range(seeds) if seed not in cell.runs]
    about, ended = machine(), 0

    def one(cell: Cell, seed: int) -> Routine:
        nonlocal ended
        folder = out / cell.name / f"seed_{seed}" if save else None
        found = yield _named, cell.name, train, cell.settings, seed, folder
        cell.runs[seed] = run = _finite(found, math.nan)
        runs = _finite(dict(sorted(cell.runs.items())), None)  # JSON has no other numbers
        contents = {"settings": asdict(cell.settings), "machine": about, "runs": runs}
        write_text(out / f"{cell.name}.json", json.dumps(contents, indent=1, allow_nan=False) + "\n")
        ended += 1
        text = f"{cell.name}, seed {seed}: {score(run):.3f}, {run['seconds']} s"
        print(f"{ended}/{len(todo)}: {text}", file=sys.stderr, flush=True)

    with ExitStack() as stack:
        for cell in cells:
            stack.enter_context(alone(out / f".{cell.name}.lock"))
        drive([one(cell, seed) for cell, seed in todo], jobs)


def _named(name: str, train: Train, settings: Any, seed: int, folder: Path | None) -> dict[str, Any]:
    """A run, whose name stands in the message where it diverged."""
    try:
        return train(settings, seed, folder)
    except Diverged as error:
        raise Diverged(f"{name}, seed {seed}: {error}") from None


def _finite(value: Any, other: float | None) -> Any:
    """What JSON holds, with `other` in place of numbers that are none, infinite or NaN."""
    if isinstance(value, dict):
        return {key: _finite(item, other) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item, other) for item in value]
    return other if value is None or (isinstance(value, float) and not math.isfinite(value)) else value


def cost(cells: Sequence[Cell], seeds: int) -> str:
    """How many runs the cells' are, how long they took, and on what."""
    seconds = sum(sum(cell.values("seconds", seeds)) for cell in cells)
    about = machine()
    on = f"{about['gpu'] or about['cpu']}, torch {about['torch']}"
    return f"{seeds * len(cells)} runs, {seconds:.0f} s of training on {on}."


def alignment(cell: Cell, seeds: int) -> list[str]:
    """Of every layer, lowest first, the mean ± deviation over rows, both the mean of the seeds.

    A cosine of layers of one unit is a sign; they are left out.
    """
    layers = zip(*(cell.runs[seed]["alignment"] for seed in range(seeds)), strict=True)
    return [f"{_mean(layer, 'mean'):.2f} ± {_mean(layer, 'std'):.2f}" for layer in layers if layer[0].get("width") != 1]


def _mean(layer: Sequence[dict[str, float]], key: str) -> float:
    return statistics.fmean(run[key] for run in layer)


def mean_std(values: Sequence[float], digits: int) -> str:
    """Mean ± sample standard deviation, this for more than one value; of values that are not finite there is none."""
    finite = all(map(math.isfinite, values))
    deviation = f" ± {statistics.stdev(values) if finite else math.nan:.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{deviation}"


def line(cells: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(cells) + " |"
