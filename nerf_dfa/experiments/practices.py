"""A practice as a question that a config asks: one factor varied, all else stated, every cell tuned alike.

    factor = activation
    values = relu, tanh, optimiser=sgd rate_scale=100     # rows: values of the factor, or key=value settings
    rules = bp, dfa                                       # columns
    learning_rates = 1e-3, 3e-3, 1e-2

Every cell (row and rule) is trained at every rate with every seed. Its rate is the one with the best mean validation
accuracy; the test accuracies at that rate are what the table shows. All runs go into the JSON one by one, so that
the same command continues an interrupted study.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from nerf_dfa.classification import Settings, load_dataset, train
from nerf_dfa.errors import UserError
from nerf_dfa.experiments import tables
from nerf_dfa.files import alone, write_text
from nerf_dfa.machine import git_commit, machine
from nerf_dfa.training.settings import change_settings, read_pairs

FACTORS = [field.name for field in fields(Settings)]


@dataclass(frozen=True)
class Study:
    """A question: rows (label and settings), columns (rules), a grid of learning rates and a number of seeds."""

    name: str
    title: str
    factor: str
    rows: tuple[tuple[str, Settings], ...]
    rules: tuple[str, ...]
    learning_rates: tuple[float, ...]
    seeds: int = 3

    def cells(self) -> Iterator[tuple[str, str, Settings]]:
        for label, settings in self.rows:
            for rule in self.rules or (settings.rule,):
                yield label, rule, replace(settings, rule=rule)

    def with_budget(self, steps: int | None, seeds: int | None) -> Study:
        rows = tuple((label, replace(s, steps=steps or s.steps)) for label, s in self.rows)
        return replace(self, rows=rows, seeds=seeds or self.seeds)


def practices(arguments: argparse.Namespace) -> None:
    """The question that --config asks."""
    if arguments.config is None:
        raise UserError("practices needs --config FILE; configs/learning has one for each question")
    study = read_study(arguments.config).with_budget(arguments.steps, arguments.seeds)
    print(tables.write(run_study(study, arguments.out, arguments.datadir), arguments.out))


def read_study(path: Path) -> Study:
    """The study that a config file states. Raises UserError that names the file and the key."""
    given = read_pairs(path)
    own = {key: given.pop(key, "") for key in ("title", "factor", "values", "rules", "learning_rates", "seeds")}
    for key in ("factor", "values", "learning_rates"):
        if not own[key]:
            raise UserError(f"{path}: '{key}' is missing")
    base = change_settings(Settings(), given, str(path))
    factor, rules = own["factor"], tuple(_items(own["rules"]))
    if factor not in (*FACTORS, "mixed"):
        raise UserError(f"{path}: factor = {factor}: expected mixed or one of {', '.join(FACTORS)}")
    if factor == "rule" and rules:
        raise UserError(f"{path}: rules = {own['rules']}: the rules are the factor's values already")
    rows = []
    for label in _items(own["values"]):
        changes = dict(part.partition("=")[::2] for part in label.split()) if "=" in label else {factor: label}
        rows.append((label, change_settings(base, changes, f"{path}: values")))
    for rule in rules:
        change_settings(base, {"rule": rule}, f"{path}: rules")
    rates = tuple(_number(f"{path}: learning_rates", rate, float, 1e-12) for rate in _items(own["learning_rates"]))
    seeds = _number(f"{path}: seeds", own["seeds"] or "3", int, 1)
    return Study(path.stem, own["title"] or path.stem, factor, tuple(rows), rules, rates, seeds)


def _items(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def _number(where: str, text: str, kind: type, lowest: int | float) -> Any:
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if not lowest <= value < math.inf:
        raise UserError(f"{where} = {text}: expected {'a whole' if kind is int else 'a'} number, at least {lowest:g}")
    return value


def run_study(study: Study, out: Path, datadir: str | None = None) -> dict[str, Any]:
    """Runs what out/NAME.json does not hold yet, and returns its contents.

    Raises UserError if the file is of a study with other settings, or another process is writing it.
    """
    out.mkdir(parents=True, exist_ok=True)
    with alone(out / f".{study.name}.lock"):
        return _run_study(study, out / f"{study.name}.json", datadir)


def _run_study(study: Study, path: Path, datadir: str | None) -> dict[str, Any]:
    stated = json.loads(json.dumps(asdict(study)))
    result: dict[str, Any] = {"study": stated, "machine": machine(), "runs": {}}
    if path.exists():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            same = {**found["study"], "title": study.title} == stated  # other words ask no other question
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: cannot be continued ({type(error).__name__}: {error})") from None
        if not same:
            raise UserError(f"{path} is of a study with other settings; move it away, or give another --out")
        result = {**found, "study": stated}
    commit = git_commit()
    dataset = lru_cache(lambda name: load_dataset(name, datadir))
    todo = [
        (*cell, rate, seed) for cell in study.cells() for rate in study.learning_rates for seed in range(study.seeds)
    ]
    for number, (label, rule, settings, rate, seed) in enumerate(todo, 1):
        key = f"{label} | {rule} | {rate:g} | {seed}"
        if key in result["runs"]:
            continue
        run = train(settings, dataset(settings.dataset), rate, seed)
        result["runs"][key] = {"row": label, "rule": rule, "rate": rate, "seed": seed, **run, "commit": commit}
        write_text(path, json.dumps(result, indent=1) + "\n")
        if number % study.seeds == 0:
            tables.say(f"{study.name} {number}/{len(todo)}: {label}, {rule}, rate {rate:g}: {run['test_accuracy']:.1%}")
    return result
