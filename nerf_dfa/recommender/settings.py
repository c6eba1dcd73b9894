"""What a training run is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nerf_dfa.errors import UserError
from nerf_dfa.learning.projection import PROJECTIONS
from nerf_dfa.recommender.avazu import Avazu
from nerf_dfa.recommender.criteo import Criteo
from nerf_dfa.recommender.models import DIRECT_RULES, MODELS
from nerf_dfa.recommender.movielens import MovieLens
from nerf_dfa.recommender.source import Source
from nerf_dfa.training.settings import make_settings, read_config, setting

SOURCES = {"criteo": Criteo, "avazu": Avazu, "movielens": MovieLens}
RANDOM_FEEDBACK = ("dfa", "modular")  # rules that read feedback
_FEEDBACK = tuple(kind for kind in PROJECTIONS if kind != "sparse")  # which would need one more setting
_DEEP = (lambda s: s.model != "fm", "fm has no hidden layers")


def _of(model: str) -> tuple:
    return lambda s: s.model == model, f"only {model} reads it"


@dataclass(frozen=True)
class Settings:
    """One training run, all but its seed and where the data are."""

    dataset: str = setting("criteo", "format of the data", choices=tuple(SOURCES))
    min_count: int = setting(10, "rarer values of a field share one index", low=1)
    model: str = setting("deepfm", "the network", choices=tuple(MODELS))
    learning_rule: str = setting("dfa", "how its hidden layers learn", choices=DIRECT_RULES)
    feedback: str = setting(
        "uniform",
        "kind of the random matrix of dfa and modular",
        choices=_FEEDBACK,
        when=(lambda s: s.learning_rule in RANDOM_FEEDBACK, "only dfa and modular draw such a matrix"),
    )
    average: float = setting(
        0.05,
        "largest step of fdfa's feedback towards a new estimate",
        low=1e-9,
        below=1.0 + 1e-9,
        when=(lambda s: s.learning_rule == "fdfa", "only fdfa estimates its feedback"),
    )
    every: int = setting(
        1,
        "steps from one estimate of fdfa's feedback to the next",
        low=1,
        when=(lambda s: s.learning_rule == "fdfa", "only fdfa estimates its feedback"),
    )
    embedding: int = setting(10, "width of the embedding", low=1)
    gradient: str = setting(
        "dense", "of the embedding: of its whole table, or of a batch's rows", choices=("dense", "sparse")
    )
    embedding_point: bool = setting(
        False, "feedback to the embedding, beside its gradient through the FM", when=_of("deepfm")
    )
    mlp_width: int = setting(400, "units of a block of the MLP", low=2, when=_DEEP)
    mlp_blocks: int = setting(3, "blocks of the MLP", low=1, when=_DEEP)
    norm: str = setting("batch", "of the MLP's blocks", choices=("batch", "layer", "none"), when=_DEEP)
    cross_layers: int = setting(6, "cross layers", low=1, when=_of("dcn"))
    neurons: int = setting(1500, "logarithmic neurons", low=1, when=_of("afn"))
    embedding_gradient: str = setting(
        "feedback",
        "to afn's embedding: feedback of its own, or the neurons' signal by learnt feedback",
        choices=("feedback", "kp", "mirror"),
        when=(lambda s: s.model == "afn" and s.learning_rule not in ("bp", "shallow"), "only afn by feedback reads it"),
    )
    embedding_mean: float = setting(0.0, "of afn's embedding at the start", low=0.0, when=_of("afn"))
    attention_width: int = setting(32, "width of all heads together", low=1, when=_of("autoint"))
    attention_layers: int = setting(3, "attention layers", low=1, when=_of("autoint"))
    heads: int = setting(2, "heads of an attention layer", low=1, when=_of("autoint"))
    dropout: float = setting(0.0, "of the MLP's blocks", low=0.0, below=1.0, when=_DEEP)
    lr: float = setting(1e-4, "learning rate of Adam", low=1e-12)
    weight_decay: float = setting(0.0, "L2 penalty", low=0.0)
    clip: float = setting(0.0, "largest norm of the gradients; 0: any", low=0.0)
    batch: int = setting(2048, "rows of a step", low=2)
    epochs: int = setting(15, "at most", low=1)
    patience: int = setting(3, "epochs without a better validation AUC after which training ends", low=1)

    def __post_init__(self) -> None:
        if self.model == "fm" and self.learning_rule != "bp":
            raise UserError(f"learning_rule = {self.learning_rule}: fm has no hidden layer to teach; its rule is bp")
        if self.model == "autoint" and self.attention_width % self.heads:
            raise UserError(f"attention_width = {self.attention_width}: expected a multiple of heads = {self.heads}")


def config_settings(path: Path) -> Settings:
    """Settings of a config file."""
    return make_settings(Settings, read_config(path, Settings), str(path))


def make_source(dataset: str, path: Path) -> Source:
    """The data set at the path. Raises UserError where there is none."""
    return SOURCES[dataset](path)
