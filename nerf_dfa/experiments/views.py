"""Experiments in view synthesis: runs the cells of a study that its JSON does not hold yet, and reports.

OUT/NAME.json has all runs, with what each was trained by; OUT/NAME/ a picture of each cell; OUT/NAME.md the table and
OUT/NAME.png the figure. The same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Generator
from pathlib import Path
from typing import Any

from nerf_dfa.errors import UserError
from nerf_dfa.experiments.cells import run_cell
from nerf_dfa.experiments.studies import HOME, Column, Row, Study, read_study, reduced
from nerf_dfa.experiments.tables import say
from nerf_dfa.experiments.view_tables import key_of, picture_path, write
from nerf_dfa.files import write_text
from nerf_dfa.machine import git_commit, machine
from nerf_dfa.nerf.options import PRESETS
from nerf_dfa.nerf.outputs import write_png
from nerf_dfa.training.workers import Routine, drive

CONFIGS = HOME / "configs" / "experiments"
DATA = Path("scenes")
# The rate is chosen with this seed's weights and rays.
SEARCH_SEED = 1000
EXTENSIONS = 3


def views(arguments: argparse.Namespace) -> None:
    """The study in configs/experiments that has the experiment's name, or another that --config names."""
    path = arguments.config or CONFIGS / f"{arguments.name}.txt"
    study = reduced(read_study(path), arguments.steps, arguments.seeds, arguments.columns)
    data = Path(arguments.datadir) if arguments.datadir else DATA
    print(write(study, run_study(study, arguments.out, data, arguments.jobs), arguments.out))


def run_study(study: Study, out: Path, data: Path, jobs: int = 1) -> dict[str, Any]:
    """Runs what out/NAME.json lacks, `jobs` runs at a time; returns its contents.

    First every cell finds its learning rate; then they are trained seed by seed, so that all have as many.
    """
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{study.name}.json"
    result = _read(path) if path.exists() else {"study": study.name, "runs": {}}
    cells = [(row, column, study.arguments(row, column, data)) for row, column in study.cells()]
    for row, column, _ in cells:
        _check(study, row, column, result["runs"], path)
    rates: dict[str, float] = {}

    def search(row: Row, column: Column, flags: list[str]) -> Routine:
        rates[key_of(row, column, "")] = yield from _rate(study, row, column, flags, result, path)

    def train(row: Row, column: Column, flags: list[str], seed: int) -> Routine:
        key, rate = key_of(row, column, f"seed {seed}"), rates[key_of(row, column, "")]
        if key in result["runs"]:
            return
        run, picture = yield run_cell, flags, seed, rate
        _keep(result, path, key, study, row, column, {"seed": seed, "rate": rate, **run})
        (out / study.name).mkdir(exist_ok=True)
        write_png(picture_path(out, study, row, column, seed), picture)
        say(f"{study.name}: {key}: {run['psnr']:.2f} dB, {run['seconds']:.0f} s")

    drive([search(*cell) for cell in cells], jobs)
    drive([train(*cell, seed) for seed in range(study.seeds) for cell in cells], jobs)
    return result


def _rate(
    study: Study, row: Row, column: Column, flags: list[str], result: dict[str, Any], path: Path
) -> Generator[tuple[Any, ...], Any, float]:
    """The factor of the learning rates with the best PSNR on training views that were held out.

    While the best one is the least or the largest that was tried, half of it or twice is tried too; at most EXTENSIONS
    times.
    """
    if len(study.rates) == 1:
        return study.rates[0]
    found: dict[float, float] = {}

    def best() -> float:
        return max(sorted(found), key=found.__getitem__)

    for trial in range(len(study.rates) + EXTENSIONS):
        if trial < len(study.rates):
            rate = study.rates[trial]
        elif min(found) < best() < max(found):
            break
        else:
            rate = best() / 2 if best() == min(found) else best() * 2
        key = key_of(row, column, f"rate {rate:g}")
        if key not in result["runs"]:
            steps = study.search_steps or int(_last(flags, "--N_iters"))
            run, _ = yield run_cell, flags, SEARCH_SEED, rate, steps
            _keep(result, path, key, study, row, column, {"rate": rate, **run})
            score = "collapsed" if run["val_psnr"] is None else f"{run['val_psnr']:.2f} dB on views held out"
            say(f"{study.name}: {key}: {score}")
        score = result["runs"][key]["val_psnr"]
        found[rate] = -math.inf if score is None else score
    return best()


def _last(flags: list[str], name: str) -> str:
    places = [place for place, flag in enumerate(flags) if flag == name]
    if not places:
        raise UserError(f"rates are tried for {name} steps: state it in the study's flags, or search_steps")
    return flags[places[-1] + 1]


def _keep(
    result: dict[str, Any], path: Path, key: str, study: Study, row: Row, column: Column, run: dict[str, Any]
) -> None:
    stated = _stated(study, row, column)
    result["runs"][key] = {"flags": stated, **run, "machine": machine(), "commit": git_commit()}
    write_text(path, json.dumps(result, indent=1) + "\n")


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
    for key, run in runs.items():
        if key.startswith(key_of(row, column, "")) and run["flags"] != stated:
            raise UserError(
                f"{path}: '{key}' was trained by other flags ({' '.join(run['flags'])}); move the file away, or give "
                "another --out"
            )
