"""Table and figure of a study of view synthesis."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nerf_dfa.evaluation.published import LLFF_REAL, NERF_SYNTHETIC
from nerf_dfa.experiments.studies import Column, Row, Study
from nerf_dfa.files import write_text, written_whole
from nerf_dfa.nerf.collapse import FALLEN
from nerf_dfa.training.cells import line, mean_std

DUAL = {"psnr_dual_pixels": "dual, mean of pixels", "psnr_dual_raw": "dual, mean of raw outputs"}
MEASURED = (
    "PSNR in dB over {views} test views (8-bit pixels, mean of the views'), mean ± standard deviation over {seeds}. "
    "Below it what one seed's training took, in seconds{over}{beside}.{rates}"
)


def key_of(row: Row, column: Column, what: str) -> str:
    """Of a run in the study's JSON; what: its seed, or the learning rate that it tries."""
    return f"{row.name} | {column.name} | {what}"


def picture_path(out: Path, study: Study, row: Row, column: Column, seed: int) -> Path:
    name = "_".join("".join(c if c.isalnum() else "-" for c in text) for text in (row.name, column.name))
    return out / study.name / f"{name}_{seed}.png"


class Cells:
    """The runs of a study, by row and column."""

    def __init__(self, study: Study, runs: dict[str, Any]) -> None:
        self.study, self.runs = study, runs

    def seeds(self, row: Row, column: Column) -> list[dict[str, Any]]:
        """Every seed's run; none where the row has no cell in the column."""
        if row.only and column.name not in row.only:
            return []
        return [self.runs[key_of(row, column, f"seed {seed}")] for seed in range(self.study.seeds)]

    def values(self, row: Row, column: Column, what: str = "psnr") -> list[float]:
        """Every seed's; none of those that have no such number, or that never began."""
        return [run[what] for run in self.seeds(row, column) if run.get(what) is not None]

    def at_edge(self, row: Row, column: Column) -> bool:
        """Whether the learning rate found is the largest or the least of those that were tried."""
        start, seeds = key_of(row, column, "rate "), self.seeds(row, column)
        rates = [run["rate"] for key, run in self.runs.items() if key.startswith(start)]
        return len(rates) > 1 and bool(seeds) and seeds[0]["rate"] in (min(rates), max(rates))


def write(study: Study, result: dict[str, Any], out: Path) -> str:
    """Writes out/NAME.md and out/NAME.png; returns the table."""
    cells = Cells(study, result["runs"])
    text = markdown(cells)
    write_text(out / f"{study.name}.md", text)
    from matplotlib.figure import Figure  # takes a second to import

    figure = {"dots": dots, "pictures": pictures, "alignment": alignments}[study.figure](Figure, cells, out)
    figure.suptitle(study.title)
    with written_whole(out / f"{study.name}.png") as unfinished:
        figure.savefig(unfinished, dpi=100, bbox_inches="tight")
    return text


def markdown(cells: Cells) -> str:
    """Rows are ways to learn, columns scenes and fields; then what qualifies the numbers."""
    study = cells.study
    dual = [kind for kind in DUAL if any(kind in run for run in cells.runs.values())]
    head = ["", *(column.name for column in study.columns)]
    lines = [f"# {study.title}", "", line(head), line(["---"] * len(head))]
    for row in study.rows:
        lines.append(line([row.name, *(_cell(cells, row, column) for column in study.columns)]))
        for kind in dual:
            values = [cells.values(row, column, kind) for column in study.columns]
            lines.append(line([f"{row.name}, {DUAL[kind]}", *(mean_std(own, 2) if own else "" for own in values)]))
    lines += [line([method, *values]) for method, values in published(study.columns).items()]
    runs = [run for row in study.rows for column in study.columns for run in cells.seeds(row, column)]
    collapsed = sum(run["restarts"] for run in runs)
    rates = ", ".join(f"{rate:g}" for rate in study.rates)
    searched = (
        f" The learning rate of every cell is the best of {rates} times that of its flags on training views held out"
        f"{_trials(study)}, "
        "and of half or twice as much where the best was at the edge (in brackets; * still at the edge)."
        if len(study.rates) > 1
        else ""
    )
    views = sorted({run["views"] for run in runs if "views" in run})
    never = sum(run["psnr"] is None for run in runs)
    fallen = sum(run.get("lost", 0) > 0 for run in runs)
    uniform = sum(run.get("uniform", False) for run in runs)
    jobs = max(run.get("jobs", 1) for run in runs)
    lines += [
        "",
        MEASURED.format(
            views=" or ".join(map(str, views)),
            seeds=f"{study.seeds} seed{'s' * (study.seeds > 1)}",
            over=f", and over that of {study.rows[0].name}" if len(study.rows) > 1 else "",
            beside=f", with up to {jobs} runs at a time" if jobs > 1 else "",
            rates=searched,
        ),
        f"{len(runs)} runs, of which {sum(run['restarts'] > 0 for run in runs)} collapsed and began anew "
        f"({collapsed} times)"
        + (f"; {never} collapsed at every initialisation" if never else "")
        + (f"; {uniform} ended with pictures of one colour" if uniform else "")
        + (f"; {fallen} lost more than {FALLEN:g} dB of what they had learned before the end" if fallen else "")
        + ".",
    ]
    lines += [study.note] if study.note else []
    machines = sorted({_machine(run["machine"]) for run in runs})
    commits = sorted({str(run["commit"]) for run in runs})
    lines += ["", f"On {'; '.join(machines)}; commit {', '.join(commits)}.{_precisions(cells)}", "", *_flags(study)]
    return "\n".join(lines) + "\n"


def _trials(study: Study) -> str:
    """How learning rates were tried, where the study states it."""
    steps = f" of {study.search_steps} steps" if study.search_steps else ""
    seeds = f" with {study.search_seeds} seeds each" if study.search_seeds > 1 else ""
    return f" by trials{steps}{seeds}" if steps or seeds else ""


def _cell(cells: Cells, row: Row, column: Column) -> str:
    seeds = cells.seeds(row, column)
    if not seeds:
        return ""
    rate = f" ({seeds[0]['rate']:g}{'*' * cells.at_edge(row, column)})" if len(cells.study.rates) > 1 else ""
    values = cells.values(row, column)
    if not values:
        return f"collapsed{rate}"
    began = f", {len(values)} of {len(seeds)} seeds" if len(values) < len(seeds) else ""
    seconds = statistics.fmean(cells.values(row, column, "seconds"))
    first = cells.values(cells.study.rows[0], column, "seconds")
    ratio = f", {seconds / statistics.fmean(first):.2f}" if first and row != cells.study.rows[0] else ""
    return f"{mean_std(values, 2)}{began}{rate}<br>{seconds:.0f} s{ratio}"


def published(columns: Sequence[Column]) -> dict[str, list[str]]:
    """The published PSNRs of the columns' scenes, by method."""
    known = {row.scene: row.psnr for row in (*NERF_SYNTHETIC, *LLFF_REAL)}
    rows = {}
    for method in ("NeRF BP", "NeRF DFA"):
        values = [known.get(column.scene or "", {}).get(method) for column in columns]
        if any(value is not None for value in values):
            rows[f"published, {method}"] = ["" if value is None else f"{value:.2f}" for value in values]
    return rows


def dots(Figure: type, cells: Cells, out: Path) -> Any:
    """Every seed's PSNR as a dot, with the mean; a panel for each column. Below, crosses: what was published."""
    study, known = cells.study, published(cells.study.columns)
    names = [*(row.name for row in study.rows), *known]
    figure = Figure(figsize=(2 + 3.2 * len(study.columns), 1.2 + 0.3 * len(names)), layout="constrained")
    panels = figure.subplots(1, len(study.columns), sharey=True, squeeze=False)[0]
    for number, (axes, column) in enumerate(zip(panels, study.columns, strict=True)):
        for place, values in enumerate(known.values(), len(study.rows)):
            if values[number]:
                axes.plot(float(values[number]), place, "x", color="C1")
        for place, row in enumerate(study.rows):
            values = cells.values(row, column)
            axes.plot(values, [place] * len(values), "o", color="C0", alpha=0.5)
            if values:
                axes.plot(statistics.fmean(values), place, "|", color="C0", ms=14, mew=2)
        axes.set_title(column.name, fontsize=10)
        axes.set_xlabel("test PSNR (dB)")
        axes.grid(alpha=0.3)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].invert_yaxis()
    return figure


def pictures(Figure: type, cells: Cells, out: Path) -> Any:
    """The first test view as each cell shows it (seed 0): rows are columns of the study, side by side its rows."""
    study = cells.study
    shape = len(study.columns), len(study.rows)
    figure = Figure(figsize=(2.4 * shape[1], 2.6 * shape[0]), layout="constrained")
    panels = figure.subplots(*shape, squeeze=False)
    for panel_row, column in zip(panels, study.columns, strict=True):
        for axes, row in zip(panel_row, study.rows, strict=True):
            axes.axis("off")
            if picture_path(out, study, row, column, 0).exists() and cells.values(row, column):
                with Image.open(picture_path(out, study, row, column, 0)) as image:
                    axes.imshow(np.asarray(image))
                axes.set_title(f"{row.name}: {cells.values(row, column)[0]:.2f} dB", fontsize=9)
    return figure


def alignments(Figure: type, cells: Cells, out: Path) -> Any:
    """Mean cosine of feedback and gradient, layer by layer over training, seed 0; a panel for each cell."""
    study = cells.study
    shape = len(study.columns), len(study.rows)
    figure = Figure(figsize=(4 * shape[1], 3.2 * shape[0]), layout="constrained")
    panels = figure.subplots(*shape, sharey=True, squeeze=False)
    for panel_row, column in zip(panels, study.columns, strict=True):
        for axes, row in zip(panel_row, study.rows, strict=True):
            axes.set_title(f"{row.name}, {column.name}", fontsize=9)
            measured = [at for run in cells.seeds(row, column)[:1] for at in run.get("alignment", [])]
            names = measured[-1]["layers"] if measured else []
            for number, name in enumerate(names):
                curve = [at["layers"][name]["mean"] for at in measured]
                color = 0.1 + 0.8 * number / max(1, len(names) - 1)
                axes.plot([at["step"] for at in measured], curve, color=(color, 0.3, 1 - color), label=name)
            axes.grid(alpha=0.3)
            if names:
                axes.legend(fontsize=6)
        panel_row[0].set_ylabel("cosine of feedback and gradient")
    for axes in panels[-1]:
        axes.set_xlabel("step")
    return figure


def _flags(study: Study) -> list[str]:
    """All settings, so that a cell can be made by train.py too."""
    lines = [f"All: `{' '.join(study.flags)}`"] if study.flags else []
    lines += [f"{column.name}: `{' '.join(column.flags)}`" for column in study.columns]
    for row in study.rows:
        trials = f", its rates by trials of {row.search_steps} steps" if row.search_steps else ""
        trials += "" if row.rate is None else f", its learning rate {row.rate:g} times that of the flags"
        flags = f"`{' '.join(row.flags)}`" if row.flags else "no flags of its own"
        lines.append(f"{row.name}: {flags}{trials}")
    return [f"* {line}" for line in lines]


def _precisions(cells: Cells) -> str:
    """In what each column was computed, where they are not stated row by row."""
    found = {}
    for column in cells.study.columns:
        runs = [run for row in cells.study.rows for run in cells.seeds(row, column)]
        found[column.name] = " or ".join(sorted({run["precision"] for run in runs if run.get("precision")}))
    if len(set(found.values())) == 1:
        return f" All in {next(iter(found.values()))}." if all(found.values()) else ""
    return " " + ", ".join(f"{name} in {precision}" for name, precision in found.items()) + "."


def _machine(machine: dict[str, Any]) -> str:
    where = machine["gpu"] or f"{machine['cpu']}, {machine['threads']} thread(s)"
    return f"{where}, torch {machine['torch']}"
