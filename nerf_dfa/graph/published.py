"""Results on graphs that Launay et al. 2020 published (arXiv:2006.12878), and which tables are made here.

Tables 3 and A.4: test accuracy in %. Table 4: area under the ROC curve and average precision. Table A.2: cosine
between the feedback and the gradient, mean and standard deviation.
"""

from __future__ import annotations

from dataclasses import dataclass

NODE_MODELS = ("cheb", "gcn", "spline", "gat", "dna")

# bp, dfa, shallow
_ACCURACY = {
    "cora": "79.2/75.4/23.3 80.1/79.9/37.0 81.0/77.7/39.6 82.6/80.6/59.4 84.6/82.9/30.2",
    "citeseer": "69.5/67.6/27.4 71.6/69.4/33.8 70.0/69.8/30.1 72.0/71.2/49.8 73.4/70.8/24.0",
    "pubmed": "79.5/75.7/37.6 78.8/77.8/44.8 77.5/77.2/44.2 77.7/77.1/67.8 87.2/79.9/42.2",
}
ACCURACY: dict[tuple[str, str, str], float] = {
    (dataset, model, rule): float(value)
    for dataset, row in _ACCURACY.items()
    for model, cell in zip(NODE_MODELS, row.split(), strict=True)
    for rule, value in zip(("bp", "dfa", "shallow"), cell.split("/"), strict=True)
}
AUC_AP: dict[tuple[str, str, str], tuple[float, float]] = {
    ("cora", "gae", "bp"): (0.918, 0.918),
    ("cora", "gae", "dfa"): (0.900, 0.900),
    ("citeseer", "gae", "bp"): (0.886, 0.895),
    ("citeseer", "gae", "dfa"): (0.879, 0.889),
    ("pubmed", "gae", "bp"): (0.967, 0.966),
    ("pubmed", "gae", "dfa"): (0.945, 0.945),
}
ALIGNMENT: dict[tuple[str, str, str], tuple[float, float]] = {
    ("cora", "cheb", "dfa"): (0.87, 0.12),
    ("cora", "gcn", "dfa"): (0.77, 0.25),
    ("cora", "spline", "dfa"): (0.56, 0.22),
    ("cora", "gat", "dfa"): (0.63, 0.18),
    ("cora", "dna", "dfa"): (0.92, 0.30),
}


@dataclass(frozen=True)
class Table:
    """Cells DATASET-MODEL-COLUMN, each with a config of that name; what: "accuracy", "links" or "alignment".

    Column "best" is ours, none of the paper's: the transport-free preset with the best validation.
    """

    title: str
    what: str
    models: tuple[str, ...]
    columns: tuple[str, ...]


TABLES = {
    "3": Table("Test accuracy in %", "accuracy", NODE_MODELS, ("bp", "dfa", "best")),
    "4": Table("Area under the ROC curve / average precision", "links", ("gae",), ("bp", "dfa", "best")),
    "A.2": Table("Alignment of the feedback with the gradient", "alignment", NODE_MODELS, ("dfa",)),
    "A.4": Table("Test accuracy in %", "accuracy", NODE_MODELS, ("bp", "dfa", "shallow")),
}
