"""Tables and plots of a study, from the runs in its JSON: NAME.md and NAME.png beside it."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nerf_dfa.files import write_text, written_whole
from nerf_dfa.training.cells import line

FAILED = 0.2  # a test accuracy below it counts as a failure: chance is 0.1
MEASURED = (
    "Test accuracy in %, mean ± standard deviation over {seeds} seeds, at the learning rate of best mean validation "
    "accuracy (in brackets; * at the edge of the grid), each run at its best evaluation on the validation images."
)


@dataclass(frozen=True)
class Cell:
    """One row under one rule, at its chosen learning rate (rate_scale is in it): a value per seed.

    test: accuracies; alignment: of every layer, the mean over the seeds that have one (None without any).
    """

    row: str
    rule: str
    rate: float
    test: list[float]
    alignment: list[float | None]
    edge: bool = False  # the chosen rate is the largest or the least that was tried

    @property
    def mean(self) -> float:
        return statistics.fmean(self.test)

    @property
    def std(self) -> float:
        """Sample standard deviation; 0 for one seed."""
        return statistics.stdev(self.test) if len(self.test) > 1 else 0.0

    @property
    def failures(self) -> int:
        return sum(value < FAILED for value in self.test)


def say(text: str) -> None:
    """Progress goes to stderr, so that stdout holds the table alone."""
    print(text, file=sys.stderr, flush=True)


def choose(result: dict[str, Any]) -> list[Cell]:
    """The cells of a study: for each row and rule the rate whose mean validation accuracy is best (else the least)."""
    scales = {label: settings["rate_scale"] for label, settings in result["study"]["rows"]}
    groups: dict[tuple[str, str], dict[float, list[dict]]] = {}
    for run in result["runs"].values():
        groups.setdefault((run["row"], run["rule"]), {}).setdefault(run["rate"], []).append(run)
    cells = []
    for (row, rule), rates in groups.items():
        best = max(sorted(rates), key=lambda rate: statistics.fmean(run["val_accuracy"] for run in rates[rate]))
        runs, edge = rates[best], len(rates) > 1 and best in (min(rates), max(rates))
        layers = zip(*(run["alignment"] for run in runs), strict=True)
        alignment = [_mean([value for value in layer if value is not None]) for layer in layers]
        cells.append(Cell(row, rule, best * scales[row], [run["test_accuracy"] for run in runs], alignment, edge))
    return cells


def markdown(result: dict[str, Any]) -> str:
    """The study as a table with what qualifies its numbers."""
    study, cells = result["study"], choose(result)
    columns = study["rules"] or [None]
    head = [study["factor"]]
    for rule in columns:
        name = f"{rule} " if rule else ""
        head += [f"{name}test accuracy", f"{name}failed"]
        head += [] if rule in ("bp", "shallow") else [f"{name}alignment by layer"]
    lines = [f"# {study['title']}", "", line(head), line(["---"] * len(head))]
    for label, _ in study["rows"]:
        entries = [label]
        for rule in columns:
            cell = next(c for c in cells if c.row == label and rule in (None, c.rule))
            entries.append(f"{100 * cell.mean:.1f} ± {100 * cell.std:.1f} ({cell.rate:g}{'*' * cell.edge})")
            entries.append(f"{cell.failures}/{len(cell.test)}")
            entries += [] if rule in ("bp", "shallow") else [" ".join(_number(value) for value in cell.alignment)]
        lines.append(line(entries))
    machine = result["machine"]
    commits = sorted({str(run["commit"]) for run in result["runs"].values()})
    seconds = sum(run["seconds"] for run in result["runs"].values())
    grid = ", ".join(f"{rate:g}" for rate in study["learning_rates"])
    about = MEASURED.format(seeds=study["seeds"])
    common = ", ".join(f"{key} {value}" for key, value in _common(study["rows"]).items())
    lines += ["", f"{about} Rates tried: {grid}, times rate_scale. Failed: below {FAILED:.0%}.", f"All rows: {common}."]
    lines += [
        f"{len(result['runs'])} runs, {seconds:.0f} s in all on {machine['cpu']}, {machine['threads']} thread(s), "
        f"torch {machine['torch']}, commit {', '.join(commits)}."
    ]
    return "\n".join(lines) + "\n"


def plot(result: dict[str, Any], path: Path) -> None:
    """Every seed as a dot, with the mean; alignment in a panel beside it. Curves where the factor is `free`."""
    from matplotlib.figure import Figure  # takes a second to import

    study, cells = result["study"], choose(result)
    labels = [label for label, _ in study["rows"]]
    rules = study["rules"] or [None]
    curve = study["factor"] == "free"
    figure = Figure(figsize=(10, 4) if curve else (10, 1.6 + 0.3 * len(labels) * max(1, len(rules) / 2)))
    accuracy, alignment = figure.subplots(1, 2, sharey=not curve)
    for number, rule in enumerate(rules):
        own = [next(c for c in cells if c.row == label and rule in (None, c.rule)) for label in labels]
        place = [float(label) for label in labels] if curve else [i + 0.22 * number for i in range(len(own))]
        draw = _curves if curve else _dots
        draw(accuracy, place, own, rule, f"C{number}")
        if rule in ("bp", "shallow"):
            continue
        for layer in range(max(len(c.alignment) for c in own)):
            points = [
                (p, c.alignment[layer]) for p, c in zip(place, own, strict=True) if c.alignment[layer] is not None
            ]
            x, y = zip(*points, strict=True) if points else ((), ())
            color, label = f"C{layer + 3}", f"layer {layer + 1}" if number == len(rules) - 1 else None
            if curve:
                alignment.plot(x, y, "o-", color=color, label=label)
            else:
                alignment.plot(y, x, "o", color=color, label=label)
    if curve:
        for axes in (accuracy, alignment):
            axes.set_xscale("symlog", linthresh=2)
            axes.set_xticks([float(label) for label in labels], labels)
            axes.set_xlabel("free neurons of the second layer")
        accuracy.set_ylabel("test accuracy (%)")
        alignment.set_ylabel("alignment")
    else:
        accuracy.set_yticks(range(len(labels)), labels)
        accuracy.invert_yaxis()
        accuracy.set_xlabel("test accuracy (%)")
        alignment.set_xlabel("alignment")
    for axes in (accuracy, alignment):
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[1]:
            axes.legend(fontsize=8)
    figure.suptitle(study["title"])
    figure.tight_layout()
    with written_whole(path) as unfinished:
        figure.savefig(unfinished, dpi=100)


def write(result: dict[str, Any], out: Path) -> str:
    """Writes NAME.md and NAME.png into the folder; returns the table."""
    name, text = result["study"]["name"], markdown(result)
    write_text(out / f"{name}.md", text)
    plot(result, out / f"{name}.png")
    return text


def _dots(axes: Any, place: Sequence[float], cells: Sequence[Cell], rule: str | None, color: str) -> None:
    for p, cell in zip(place, cells, strict=True):
        axes.plot([100 * value for value in cell.test], [p] * len(cell.test), ".", color=color, alpha=0.5)
    axes.plot([100 * cell.mean for cell in cells], place, "|", color=color, ms=12, mew=2, label=rule)


def _curves(axes: Any, place: Sequence[float], cells: Sequence[Cell], rule: str | None, color: str) -> None:
    means, stds = [100 * cell.mean for cell in cells], [100 * cell.std for cell in cells]
    axes.errorbar(place, means, stds, fmt="o-", color=color, capsize=3, label=rule)


def _common(rows: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """Settings that all rows share, and the columns do not replace."""
    first = rows[0][1]
    return {k: v for k, v in first.items() if k != "rule" and all(settings[k] == v for _, settings in rows)}


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
