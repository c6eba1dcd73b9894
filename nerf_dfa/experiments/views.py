"""Experiments in view synthesis: runs the cells of a study that its JSON does not hold yet, and reports.

OUT/NAME.json has all runs, with what each was trained by, and what data each column is of; OUT/NAME/ a picture of each
cell; OUT/NAME.md the table and OUT/NAME.png the figure. The same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from pathlib import Path
from typing import Any

from nerf_dfa.errors import UserError
from nerf_dfa.experiments.cells import data_of, run_cell
from nerf_dfa.experiments.studies import HOME, Column, Row, Study, read_study, reduced
from nerf_dfa.experiments.tables import say
from nerf_dfa.experiments.view_tables import key_of, picture_path, write
from nerf_dfa.files import alone, write_text
from nerf_dfa.machine import git_commit, machine
from nerf_dfa.nerf.flags import parse
from nerf_dfa.nerf.model import measured_precision
from nerf_dfa.nerf.outputs import write_png
from nerf_dfa.nerf.presets import PRESETS
from nerf_dfa.training.devices import choose_device
from nerf_dfa.training.precision import Precision
from nerf_dfa.training.workers import Routine, drive

CONFIGS = HOME / "configs" / "experiments"
DATA = Path("scenes")
# The rate is chosen with the weights and rays of this seed, and of those after it.
SEARCH_SEED = 1000
EXTENSIONS = 3


def views(arguments: argparse.Namespace) -> None:
    """The study in configs/experiments that has the experiment's name, or another that --config names."""
    path = arguments.config or CONFIGS / f"{arguments.name}.txt"
    study = read_study(path)
    part = reduced(study, arguments.steps, arguments.seeds, arguments.columns, arguments.flags)
    data = Path(arguments.datadir) if arguments.datadir else DATA
    arguments.out.mkdir(parents=True, exist_ok=True)
    with alone(arguments.out / f".{study.name}.lock"):
        result = run_study(part, arguments.out, data, arguments.jobs)
    whole = reduced(study, arguments.steps, arguments.seeds, None, arguments.flags)
    columns = [column.name for column in whole.columns if finished(whole, column, result["runs"])]
    whole = reduced(study, arguments.steps, arguments.seeds, columns, arguments.flags)
    print(write(whole, result, arguments.out))


def finished(study: Study, column: Column, runs: dict[str, Any]) -> bool:
    """Whether every seed of every cell of the column has its run, by the flags that the study states."""
    return all(
        runs.get(key_of(row, column, f"seed {seed}"), {}).get("flags") == _stated(study, row, column)
        for row, other in study.cells()
        if other == column
        for seed in range(study.seeds)
    )


def run_study(study: Study, out: Path, data: Path, jobs: int = 1) -> dict[str, Any]:
    """Runs what out/NAME.json lacks, `jobs` runs at a time; returns its contents.

    First every cell finds its learning rate; then they are trained seed by seed, so that all have as many.
    """
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{study.name}.json"
    result = _read(path) if path.exists() else {"study": study.name, "runs": {}}
    runs = result["runs"]
    cells = [(row, column, study.arguments(row, column, data)) for row, column in study.cells()]
    for row, column, _ in cells:
        _check(study, row, column, runs, path)
    settled: dict[str, Precision] = {}
    for place, (row, column, flags) in enumerate(cells):
        if parse(flags)[0].precision == "auto":
            if column.name not in settled:
                settled[column.name] = precision(column, flags, runs)
            cells[place] = row, column, [*flags, "--precision", settled[column.name]]

    looked: set[str] = set()

    def look(column: Column, flags: list[str]) -> None:
        """UserError where the column's other runs have learned from other data."""
        if column.name in looked:
            return
        looked.add(column.name)
        found = data_of(flags)
        if result.setdefault("data", {}).setdefault(column.name, found) != found:
            raise UserError(
                f"{path}: column {column.name} has runs on other data than there is now; give another --out"
            )

    def keep(key: str, row: Row, column: Column, run: dict[str, Any], said: str) -> None:
        about = {"jobs": jobs, "machine": machine(), "commit": git_commit()}
        runs[key] = {"flags": _stated(study, row, column), **run, **about}
        write_text(path, json.dumps(result, indent=1) + "\n")
        say(f"{study.name}: {key}: {said}")

    def attempt(row: Row, column: Column, flags: list[str], rate: float) -> Routine:
        for trial in range(study.search_seeds):
            key = key_of(row, column, f"rate {rate:g}" + (f", trial {trial + 1}" if trial else ""))
            if key in runs:
                continue
            look(column, flags)
            seed = SEARCH_SEED + trial
            run, _ = yield run_cell, flags, seed, rate, trial_steps(study, row, flags)
            score = run["val_psnr"]
            said = "collapsed" if score is None else f"{score:.2f} dB on views held out"
            keep(key, row, column, {"seed": seed, "rate": rate, **run}, said)

    def extend(row: Row, column: Column, flags: list[str]) -> Routine:
        while (rate := beyond(study, runs, row, column)) is not None:
            yield from attempt(row, column, flags, rate)

    def train(row: Row, column: Column, flags: list[str], seed: int) -> Routine:
        key, rate = key_of(row, column, f"seed {seed}"), best_rate(study, runs, row, column)
        if key in runs:
            if runs[key]["rate"] != rate:
                found = (
                    f"trained at {runs[key]['rate']:g} times its learning rate, and {rate:g} is the best of the trials"
                )
                raise UserError(f"{path}: '{key}' was {found}; take the run out, or give another --out")
            return
        look(column, flags)
        run, picture = yield run_cell, flags, seed, rate
        said = "collapsed at every initialisation"
        if picture is not None:
            (out / study.name).mkdir(exist_ok=True)
            write_png(picture_path(out, study, row, column, seed), picture)
            said = f"{run['psnr']:.2f} dB, {run['seconds']:.0f} s"
        keep(key, row, column, {"seed": seed, "rate": rate, **run}, said)

    searched = [cell for cell in cells if study.searches(cell[0])]
    drive([attempt(*cell, rate) for rate in study.rates for cell in searched], jobs)
    drive([extend(*cell) for cell in searched], jobs)
    drive([train(*cell, seed) for seed in range(study.seeds) for cell in cells], jobs)
    return result


def precision(column: Column, flags: list[str], runs: dict[str, Any]) -> Precision:
    """What a column's cells compute in where their flags leave it open: all in the same, whatever each found faster.

    As its runs did, those that count before those that searched; before the first, what is faster on this machine.
    """
    of_column = {key: run for key, run in runs.items() if key.split(" | ")[-2] == column.name and run.get("precision")}
    for key in sorted(of_column, key=lambda key: "seed" not in key.split(" | ")[-1]):
        return of_column[key]["precision"]
    options = parse(flags)[0]
    return measured_precision(options, choose_device(options.device))


def trial_steps(study: Study, row: Row, flags: list[str]) -> int:
    """Steps of a trial of a rate: the row's, or the study's, or as many as the cell's runs have; never more than these.

    flags: the cell's. Raises UserError where none of the three is stated.
    """
    stated = row.search_steps or study.search_steps
    return min(stated, parse(flags)[0].N_iters) if stated else int(_last(flags, "--N_iters"))


def tried(study: Study, runs: dict[str, Any], row: Row, column: Column) -> dict[float, float]:
    """PSNR on views held out by the factor of the learning rates, of those with all their trials; their mean.

    -inf where a trial collapsed at every initialisation.
    """
    scores: dict[float, list[float]] = {}
    for key, run in runs.items():
        if key.startswith(key_of(row, column, "rate ")):
            scores.setdefault(run["rate"], []).append(-math.inf if run["val_psnr"] is None else run["val_psnr"])
    return {rate: statistics.fmean(own) for rate, own in scores.items() if len(own) >= study.search_seeds}


def best_rate(study: Study, runs: dict[str, Any], row: Row, column: Column) -> float:
    """The factor of the learning rates with the best PSNR on training views that were held out; the least of equals."""
    if not study.searches(row):
        return row.rate or study.rates[0]
    found = tried(study, runs, row, column)
    return max(sorted(found), key=found.__getitem__)


def beyond(study: Study, runs: dict[str, Any], row: Row, column: Column) -> float | None:
    """The rate to try next, half or twice the best one if that is the least or largest; at most EXTENSIONS of them."""
    found, best = tried(study, runs, row, column), best_rate(study, runs, row, column)
    if min(found) < best < max(found) or len(found) >= len(study.rates) + EXTENSIONS:
        return None
    return best / 2 if best == min(found) else best * 2


def _last(flags: list[str], name: str) -> str:
    places = [place for place, flag in enumerate(flags) if flag == name]
    if not places:
        raise UserError(f"rates are tried for {name} steps: state it in the study's flags, or search_steps")
    return flags[places[-1] + 1]


def _stated(study: Study, row: Row, column: Column) -> list[str]:
    """What a cell is trained by, with the flags of a preset in its place: what that holds may change."""
    flags = [part for flag in (*study.flags, *column.flags, *row.flags) for part in _apart(flag)]
    while "--preset" in flags:
        place = flags.index("--preset")
        flags[place : place + 2] = PRESETS[flags[place + 1]].split()
    return flags


def _apart(flag: str) -> list[str]:
    """--preset=NAME as two words, as a study may write it; any other flag as it is."""
    return flag.split("=", 1) if flag.startswith("--preset=") else [flag]


def _read(path: Path) -> dict[str, Any]:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        if not all(isinstance(run["flags"], list) for run in result["runs"].values()):
            raise TypeError("runs without flags")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: cannot be continued ({type(error).__name__}: {error})") from None
    return result


def _check(study: Study, row: Row, column: Column, runs: dict[str, Any], path: Path) -> None:
    stated = _stated(study, row, column)
    rate = None if study.searches(row) else best_rate(study, runs, row, column)
    for key, run in runs.items():
        if not key.startswith(key_of(row, column, "")):
            continue
        if run["flags"] != stated:
            other = f"other flags ({' '.join(run['flags'])})"
        elif rate not in (None, run["rate"]):
            other = f"another factor of the learning rate ({run['rate']:g})"
        else:
            continue
        raise UserError(f"{path}: '{key}' was trained by {other}; move the file away, or give another --out")
