"""What a training run is asked for: config files of `key = value` lines, and flags that win over them."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path

from nerf_dfa.errors import UserError
from nerf_dfa.graph.models import DIRECT_RULES, MODELS, SEQUENTIAL_RULES
from nerf_dfa.graph.planetoid import DATASETS
from nerf_dfa.learning.projection import PROJECTIONS

RANDOM_FEEDBACK = ("dfa", "modular")  # rules that read feedback
ATTENTIVE = ("gat", "dna")  # models that read attention_dropout


@dataclass(frozen=True)
class Settings:
    """One training run, all but its seed."""

    dataset: str = "cora"
    model: str = "gcn"
    learning_rule: str = "dfa"
    feedback: str = "uniform"
    average: float = 0.05
    epochs: int = 250
    lr: float = 0.01
    weight_decay: float = 0.0
    dropout: float = 0.0
    attention_dropout: float = 0.0
    top_attention_dropout: float = 0.0


KINDS = {field.name: type(field.default) for field in fields(Settings)}
CHOICES = {
    "dataset": tuple(DATASETS),
    "model": tuple(MODELS),
    "learning_rule": DIRECT_RULES + SEQUENTIAL_RULES,
    "feedback": tuple(kind for kind in PROJECTIONS if kind != "sparse"),  # which would need one more setting
}
MEANING = {
    "dataset": "the graph",
    "model": "the network",
    "learning_rule": "how its hidden layers learn",
    "feedback": "kind of the random matrix of dfa and modular",
    "average": "weight of a new estimate in fdfa's feedback",
    "epochs": "steps, for each sees the whole graph",
    "lr": "learning rate of Adam",
    "weight_decay": "L2 penalty; cheb and gcn: of the first layer alone",
    "dropout": "of the inputs of both layers; dna: of what its two linear layers bound",
    "attention_dropout": "of the attention coefficients of gat and dna",
    "top_attention_dropout": "likewise, of gat's second layer",
}
# From the first number on, and below the second.
RANGES = {
    "average": (1e-9, 1.0 + 1e-9),
    "epochs": (1.0, math.inf),
    "lr": (1e-12, math.inf),
    "weight_decay": (0.0, math.inf),
    "dropout": (0.0, 1.0),
    "attention_dropout": (0.0, 1.0),
    "top_attention_dropout": (0.0, 1.0),
}


def read_config(path: Path) -> dict[str, str]:
    """The keys of a config file; `#` begins a comment. Raises UserError that names the file and the line."""
    try:
        lines = [line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    given: dict[str, str] = {}
    for line in filter(None, lines):
        key, equals, value = (part.strip() for part in line.partition("="))
        if not equals or not key or not value or key in given:
            raise UserError(f"{path}: '{line}' is not 'key = value', or its key stands there twice")
        if key not in KINDS:
            raise UserError(f"{path}: unknown key '{key}'; there are {', '.join(KINDS)}")
        given[key] = value
    return given


def make_settings(given: dict[str, str], where: str = "") -> Settings:
    """Settings from text, checked; `where` (the config file) begins the message of a mistake.

    Raises UserError for a value that is out of range, or a key that the run would not read.
    """
    prefix = f"{where}: " if where else ""
    values: dict[str, str | int | float] = {}
    for key, text in given.items():
        if key in CHOICES and text not in CHOICES[key]:
            raise UserError(f"{prefix}{key} = {text}: expected one of {', '.join(CHOICES[key])}")
        values[key] = text if key in CHOICES else _number(f"{prefix}{key}", text, KINDS[key], *RANGES[key])
    settings = Settings(**values)
    if settings.learning_rule in SEQUENTIAL_RULES and not MODELS[settings.model].sequential:
        raise UserError(
            f"{prefix}learning_rule = {settings.learning_rule}: model {settings.model} has {', '.join(DIRECT_RULES)}"
        )
    reads = {
        "feedback": (settings.learning_rule in RANDOM_FEEDBACK, "only dfa and modular draw such a matrix"),
        "average": (settings.learning_rule == "fdfa", "only fdfa estimates its feedback"),
        "attention_dropout": (settings.model in ATTENTIVE, "only gat and dna have attention"),
        "top_attention_dropout": (settings.model == "gat", "only gat has two layers of attention"),
    }
    for key, (read, reason) in reads.items():
        if key in given and not read:
            raise UserError(f"{prefix}{key} has no effect here: {reason}; leave it out")
    return settings


def _number(where: str, text: str, kind: type, lowest: float, end: float) -> int | float:
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if not lowest <= value < end:
        bound = "" if end == math.inf else " and below 1" if end == 1 else " and at most 1"
        raise UserError(f"{where} = {text}: expected a {'whole ' * (kind is int)}number, at least {lowest:g}{bound}")
    return value
