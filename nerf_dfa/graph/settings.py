"""What a training run is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nerf_dfa.errors import UserError
from nerf_dfa.graph.models import DIRECT_RULES, MODELS, SEQUENTIAL_RULES
from nerf_dfa.graph.planetoid import DATASETS
from nerf_dfa.learning.projection import PROJECTIONS
from nerf_dfa.training.settings import setting

RANDOM_FEEDBACK = ("dfa", "modular")  # rules that read feedback
ATTENTIVE = ("gat", "dna")  # models that read attention_dropout

Condition = tuple[Callable[["Settings"], bool], str]
RANDOM: Condition = (lambda s: s.learning_rule in RANDOM_FEEDBACK, "only dfa and modular draw such a matrix")
PROBED: Condition = (lambda s: s.learning_rule == "fdfa", "only fdfa estimates its feedback")
FEATURES: Condition = (lambda s: s.model != "dna" and s.dropout > 0, "dna never drops features, nor does dropout = 0")
ATTENTION: Condition = (lambda s: s.model in ATTENTIVE, "only gat and dna have attention")
TOP_ATTENTION: Condition = (lambda s: s.model == "gat", "only gat has two layers of attention")


@dataclass(frozen=True)
class Settings:
    """One training run, all but its seed."""

    dataset: str = setting("cora", "the graph", choices=tuple(DATASETS))
    model: str = setting("gcn", "the network", choices=tuple(MODELS))
    learning_rule: str = setting("dfa", "how its hidden layers learn", choices=DIRECT_RULES + SEQUENTIAL_RULES)
    # sparse would need one more setting
    feedback: str = setting(
        "uniform",
        "kind of the random matrix of dfa and modular",
        choices=tuple(kind for kind in PROJECTIONS if kind != "sparse"),
        when=RANDOM,
    )
    average: float = setting(
        0.05, "largest step of fdfa's feedback towards a new estimate", low=1e-9, below=1 + 1e-9, when=PROBED
    )
    epochs: int = setting(250, "steps, for each sees the whole graph", low=1)
    lr: float = setting(0.01, "learning rate of Adam", low=1e-12)
    weight_decay: float = setting(0.0, "L2 penalty; cheb and gcn: of the first layer alone", low=0)
    dropout: float = setting(
        0.0, "of the inputs of both layers; dna: of what its two linear layers bound", low=0, below=1
    )
    feature_dropout: bool = setting(
        True, "whether the features are dropped too, or the hidden layer alone (the paper's cheb, gcn)", when=FEATURES
    )
    attention_dropout: float = setting(
        0.0, "of the attention coefficients of gat and dna", low=0, below=1, when=ATTENTION
    )
    top_attention_dropout: float = setting(0.0, "likewise, of gat's second layer", low=0, below=1, when=TOP_ATTENTION)

    def __post_init__(self) -> None:
        if self.learning_rule in SEQUENTIAL_RULES and not MODELS[self.model].sequential:
            raise UserError(f"learning_rule = {self.learning_rule}: model {self.model} has {', '.join(DIRECT_RULES)}")
