"""A table of runs beside the published numbers.

    python -m nerf_dfa.evaluation.report RUN... [--format md|latex|csv] [--out FILE]

reads RUN/metrics.json of every run (RUN may be another .json of that kind, too) and gives one row for each, and a
mean row for every learning rule that stands in more than one row of the same number of steps. A RUN without one is
named and left out. What qualifies a number is said below the table
(Markdown, LaTeX) or in a last column (CSV).

metrics.json is one object, written by `metrics.write_metrics`:

    run, scene, dataset_type, learning_rule, split, commit, version, device, torch   strings (commit: or null)
    settings          object: every option of the run
    field             string, optional: the field and its size in words; else it is made from the settings
                      "field", "netdepth", "netwidth" and, of the fine network,
                      "netdepth_fine", "netwidth_fine" if "N_importance" is above 0
    parameters, steps, seed, views, image_width, image_height                        integers
    seconds           number: training time
    dual              true if coarse and fine predictions were averaged (NeRF-Dual)
    psnr              number: mean over the views; null is infinity (images without any error)
    ssim, lpips       number, or null where it was not computed
    lpips_unavailable string, present where lpips is null: the reason
    alignment         object, optional: "layers", by name, each with "mean" and "std" (learning/alignment.py)
    images            array of objects: name, psnr, ssim, lpips of every view
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from nerf_dfa.errors import UserError
from nerf_dfa.evaluation import published
from nerf_dfa.evaluation.metrics import SSIM_WINDOW
from nerf_dfa.files import write_text

Number = (int, float)
REQUIRED: dict[str, tuple[type, ...]] = {
    "run": (str,),
    "scene": (str,),
    "dataset_type": (str,),
    "learning_rule": (str,),
    "settings": (dict,),
    "parameters": (int,),
    "steps": (int,),
    "seconds": Number,
    "image_width": (int,),
    "image_height": (int,),
    "split": (str,),
    "views": (int,),
    "psnr": (*Number, type(None)),
    "ssim": (*Number, type(None)),
    "lpips": (*Number, type(None)),
    "dual": (bool,),
}


@dataclass
class Row:
    """One line of the table: a value for each column (None: there is none) and remarks on some of them."""

    values: dict[str, Any]
    notes: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Column:
    """heading: in Markdown and LaTeX. name: in CSV, where values are unformatted. shown: a value as text."""

    heading: str
    name: str
    shown: Callable[[Any], str] = str
    right: bool = True


def _duration(seconds: float | int) -> str:
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


COLUMNS = (
    Column("run", "run", right=False),
    Column("scene", "scene", right=False),
    Column("learning rule", "learning_rule", right=False),
    Column("field", "field", right=False),
    Column("parameters", "parameters", "{:,}".format),
    Column("steps", "steps", "{:,}".format),
    Column("time", "seconds", _duration),
    Column("resolution", "resolution"),
    Column("views", "views"),
    Column("PSNR", "psnr", "{:.2f}".format),
    Column("SSIM", "ssim", "{:.3f}".format),
    Column("LPIPS", "lpips", "{:.3f}".format),
)
ALIGNMENT = Column("alignment", "alignment", "{:+.3f}".format)
PUBLISHED_COLUMNS = tuple(Column(method, method, "{:.2f}".format) for method in published.METHODS)


def read_metrics(run: Path) -> dict[str, Any]:
    """The metrics.json of a run, or a file of another name that is one, checked.

    Raises:
        UserError: there is none, it is no JSON, or a key that the table shows is missing or of a wrong type.
    """
    path = _file(run)
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_such_number)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path}: no such file; evaluate the run first, it is written then") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error}); evaluate the run again") from None
    if not isinstance(metrics, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(metrics).__name__}")
    for key, types in REQUIRED.items():
        if key not in metrics:
            raise UserError(f'{path}: the key "{key}" is missing; evaluate the run again')
        value = metrics[key]
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            expected = " or ".join("null" if kind is type(None) else kind.__name__ for kind in types)
            raise UserError(f'{path}: "{key}" should be {expected}, found {json.dumps(value)[:60]}')
    return metrics


def _file(run: Path) -> Path:
    return run if run.suffix == ".json" else run / "metrics.json"


def run_row(metrics: dict[str, Any]) -> Row:
    """A run's row, with the published numbers of its scene if there are any."""
    values: dict[str, Any] = {key: metrics[key] for key in REQUIRED if key not in ("settings", "dual")}
    values["learning_rule"] += ", dual" if metrics["dual"] else ""
    values["field"] = str(metrics.get("field") or _field(metrics["settings"]) or "-")
    values["resolution"] = f"{metrics['image_width']}x{metrics['image_height']}"
    notes: dict[str, list[str]] = {}
    precision = metrics["settings"].get("precision")
    if precision not in (None, "fp32", "auto"):
        notes["psnr"] = [f"Matrix products in {precision}."]
    if metrics["split"] != "test":
        notes["views"] = [f'Views of the split "{metrics["split"]}", not of the test split.']
    if metrics["psnr"] is None:
        values["psnr"] = math.inf
        notes.setdefault("psnr", []).append("Infinite: an image equals its photograph in all 8-bit values.")
    if metrics["ssim"] is None:
        notes["ssim"] = [f"SSIM was not computed: it needs {SSIM_WINDOW} pixels each way."]
    if metrics["lpips"] is None:
        reason = metrics.get("lpips_unavailable") or "no reason was recorded"
        notes["lpips"] = [f"LPIPS was not computed: {' '.join(str(reason).split())}."]

    layers = (metrics.get("alignment") or {}).get("layers") or {}
    layers = {name: a for name, a in layers.items() if a["mean"] is not None}  # null: no sample had a gradient
    if layers:
        values["alignment"] = sum(layer["mean"] for layer in layers.values()) / len(layers)
        each = ", ".join(f"{name} {a['mean']:+.3f} ± {a['std']:.3f}" for name, a in layers.items())
        notes["alignment"] = [f"Cosine of feedback and true gradient, mean over the feedback points of {each}."]
    known = published.lookup(metrics["scene"], metrics["dataset_type"])
    if known:
        for method, psnr in known.psnr.items():
            values[method] = psnr
            notes[method] = published.notes(known, method)
    return Row(values, notes)


def mean_rows(rows: Sequence[Row]) -> list[Row]:
    """For every learning rule of several rows of as many steps their mean; a column that one of them lacks has none."""
    by_rule: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        by_rule.setdefault((row.values["learning_rule"], row.values["steps"]), []).append(row)

    means = []
    for (rule, _), group in by_rule.items():
        if len(group) < 2:
            continue
        values: dict[str, Any] = {}
        for column in COLUMNS + PUBLISHED_COLUMNS:
            cells = [row.values.get(column.name) for row in group]
            if column.name in ("seconds", "psnr", "ssim", "lpips", *published.METHODS):
                values[column.name] = None if None in cells else sum(cells) / len(cells)
            else:
                values[column.name] = cells[0] if len(set(cells)) == 1 else None
        values["run"], values["learning_rule"] = f"mean of {len(group)} runs", rule
        means.append(Row(values))
    return means


def table(rows: Sequence[Row], form: str) -> str:
    """Rows and their means as text in the form "md", "latex" or "csv", ending in a line break."""
    rows = [*rows, *mean_rows(rows)]
    shown = [column for column in PUBLISHED_COLUMNS if any(row.values.get(column.name) for row in rows)]
    measured = [ALIGNMENT] if any("alignment" in row.values for row in rows) else []
    columns = [*COLUMNS, *measured, *shown]
    if form == "csv":
        return _csv(rows, columns)
    footnotes: list[str] = []  # in the order of their first mention; the number of one is its place
    header = [
        column.heading + _marks([published.RESOLUTION_NOTE] if column in shown else [], footnotes) for column in columns
    ]
    body = [
        [_cell(row, column) + _marks(row.notes.get(column.name, []), footnotes) for column in columns] for row in rows
    ]
    return {"md": _markdown, "latex": _latex}[form](columns, header, body, footnotes)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m nerf_dfa.evaluation.report",
        description="A table of runs beside the published numbers, from the metrics.json of each.",
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="folder of a run, or one of its reports")
    parser.add_argument("--format", choices=("md", "latex", "csv"), default="md", help="default: %(default)s")
    parser.add_argument("--out", metavar="FILE", type=Path, help="write there instead of to the terminal")
    args = parser.parse_args(argv)
    try:
        found = [run for run in args.runs if _file(run).is_file()] or args.runs
        text = table([run_row(read_metrics(run)) for run in found], args.format)
        for run in args.runs:
            if run not in found:
                print(f"{_file(run)}: no such file; left out", file=sys.stderr)
        if args.out is None:
            sys.stdout.write(text)
        else:
            _write(args.out, text)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _no_such_number(token: str) -> NoReturn:
    raise ValueError(f"{token} is no JSON number")


def _field(settings: dict[str, Any]) -> str | None:
    """Such as "mlp 8x256", or "mlp 4x128 + 8x256" where the fine network has another size than the coarse."""
    kind = settings.get("field")
    coarse = [settings.get(key) for key in ("netdepth", "netwidth")]
    fine = [settings.get(key) for key in ("netdepth_fine", "netwidth_fine")] if settings.get("N_importance") else coarse
    if kind not in (None, "mlp") or None in coarse + fine:
        return None if kind is None else str(kind)
    sizes = [f"{depth}x{width}" for depth, width in (coarse, fine)]
    return "mlp " + " + ".join(dict.fromkeys(sizes))


def _cell(row: Row, column: Column) -> str:
    value = row.values.get(column.name)
    return "-" if value is None else column.shown(value)


def _marks(said: Sequence[str], footnotes: list[str]) -> str:
    for note in said:
        if note not in footnotes:
            footnotes.append(note)
    return "".join(f" ({footnotes.index(note) + 1})" for note in said)


def _markdown(columns: Sequence[Column], header: list[str], body: list[list[str]], footnotes: list[str]) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(_escaped(cell, MARKDOWN) for cell in cells) + " |"

    rule = "|" + "|".join(" ---: " if column.right else " --- " for column in columns) + "|"
    lines = [line(header), rule, *(line(cells) for cells in body)]
    if footnotes:
        lines += ["", *(f"({i}) {_escaped(note, MARKDOWN)}  " for i, note in enumerate(footnotes, 1))]
    return "\n".join(lines) + "\n"


def _latex(columns: Sequence[Column], header: list[str], body: list[list[str]], footnotes: list[str]) -> str:
    def line(cells: Sequence[str]) -> str:
        return " & ".join(_escaped(cell, LATEX) for cell in cells) + r" \\"

    lines = [
        r"\begin{tabular}{" + "".join("r" if column.right else "l" for column in columns) + "}",
        r"\hline",
    ]
    lines += [line(header), r"\hline", *(line(cells) for cells in body), r"\hline", r"\end{tabular}"]
    if footnotes:
        lines += ["", r"\smallskip", r"{\footnotesize"]
        lines += [f"({i}) {_escaped(note, LATEX)}\\par" for i, note in enumerate(footnotes, 1)]
        lines += ["}"]
    return "\n".join(lines) + "\n"


def _csv(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    """Unformatted values, an empty cell where there is none, and a last column with the row's notes."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*(column.name for column in columns), "notes"])
    for row in rows:
        notes = [note for column in columns for note in row.notes.get(column.name, [])]
        if any(row.values.get(method) is not None for method in published.METHODS):
            notes.append(published.RESOLUTION_NOTE)
        values = [row.values.get(column.name) for column in columns]
        writer.writerow([*("" if value is None else value for value in values), " ".join(dict.fromkeys(notes))])
    return text.getvalue()


MARKDOWN = {character: "\\" + character for character in "\\|*`<["}
LATEX = {character: "\\" + character for character in "{}$&#%_"} | {
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
}


def _escaped(text: str, replacements: dict[str, str]) -> str:
    return " ".join(text.split()).translate(str.maketrans(replacements))


def _write(path: Path, text: str) -> None:
    try:
        write_text(path, text)
    except (OSError, ValueError) as error:  # ValueError: no file name in it, as in "."
        raise UserError(f"{path}: cannot be written ({getattr(error, 'strerror', None) or error})") from None


if __name__ == "__main__":
    sys.exit(main())
