"""Results on Criteo that Launay et al. 2020 published (arXiv:2006.12878), and which tables are made here.

Tables 2 and A.3: area under the ROC curve and log loss. Table A.1: cosine between the feedback and the gradient, mean
and standard deviation. AutoInt is in the code that was released with the paper, not in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass

MODELS = ("fm", "deepfm", "dcn", "afn", "autoint")

# bp, dfa, shallow
_SCORES = {
    "fm": ".7915/.4687",
    "deepfm": ".7954/.4610 .7956/.4624 .7920/.4682",
    "dcn": ".8104/.4414 .8009/.4502 .7324/.5010",
    "afn": ".7933/.4630 .7924/.4621 .7859/.4685",
    "autoint": ".7937/.4620 .7906/.4600 .7860/.4686",
}
SCORES: dict[tuple[str, str, str], tuple[float, float]] = {
    ("criteo", model, rule): tuple(map(float, cell.split("/")))
    for model, row in _SCORES.items()
    for cell, rule in zip(row.split(), ("bp", "dfa", "shallow"), strict=False)
}
ALIGNMENT: dict[tuple[str, str, str], tuple[float, float]] = {
    ("criteo", "dcn", "dfa"): (0.40, 0.91),
    ("criteo", "afn", "dfa"): (0.49, 0.08),
}


@dataclass(frozen=True)
class Table:
    """Cells DATASET-MODEL-COLUMN, each with a config of that name; fm has the column bp alone.

    what: "scores" or "alignment".
    """

    title: str
    what: str
    models: tuple[str, ...]
    columns: tuple[str, ...]

    def keys(self, dataset: str) -> list[tuple[str, str, str]]:
        pairs = [(model, column) for model in self.models for column in self.columns]
        return [(dataset, model, column) for model, column in pairs if model != "fm" or column == "bp"]


TABLES = {
    "2": Table("Area under the ROC curve / log loss", "scores", MODELS, ("bp", "dfa")),
    "A.1": Table("Alignment of the feedback with the gradient", "alignment", MODELS[1:], ("dfa",)),
    "A.3": Table("Area under the ROC curve / log loss", "scores", MODELS, ("bp", "dfa", "shallow")),
}
