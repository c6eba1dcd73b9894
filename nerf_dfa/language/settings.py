"""What a training run is asked for: see nerf_dfa/training/settings.py for config files and flags.

The defaults are those of Launay et al. 2020 with the best of their optimisers.
"""

from __future__ import annotations

from dataclasses import dataclass

from nerf_dfa.errors import UserError
from nerf_dfa.language.attention import ATTENTIONS
from nerf_dfa.language.model import RULES, Shape
from nerf_dfa.language.optimizers import OPTIMIZERS, SCHEDULES
from nerf_dfa.learning.projection import PROJECTIONS
from nerf_dfa.training.settings import setting

FEEDBACKS = ("hashed", *(kind for kind in PROJECTIONS))
RANDOM_FEEDBACK = ("dfa", "modular")  # rules that read feedback


@dataclass(frozen=True)
class Settings:
    """One training run, all but its seed."""

    text: str = setting("data/wikitext-103", "a UTF-8 text file, or a folder with wiki.{train,valid,test}.tokens")
    vocabulary: int = setting(32000, "tokens", low=257, below=1 << 24)
    lower_case: bool = setting(True, "capitals are not told apart")
    chunk: int = setting(128, "tokens of a text that the model sees at once", low=1)
    batch: int = setting(64, "chunks of a step", low=1)
    layers: int = setting(6, "blocks", low=1)
    heads: int = setting(8, "of attention", low=1)
    width: int = setting(512, "of the model", low=2)
    feed_forward: int = setting(2048, "width of the ReLUs of a block", low=1)
    norm: str = setting("post", "normalisation behind or before each sub-layer", choices=("post", "pre"))
    attention: str = setting("dot", "how positions are weighted", choices=tuple(ATTENTIONS))
    dropout: float = setting(0.1, "of embeddings, sub-layers and attention", low=0, below=1)
    unigram_bias: bool = setting(False, "the decoder's bias starts at the tokens' log frequencies in the training part")
    learning_rule: str = setting("dfa", "how the blocks learn", choices=RULES)
    dfa_placement: str = setting(
        "macro",
        "feedback points after each block, or each sub-layer",
        choices=("macro", "micro"),
        when=(lambda s: s.learning_rule not in ("bp", "shallow"), "bp and shallow have no feedback"),
    )
    error_at: str = setting(
        "logits",
        "where the error is taken",
        choices=("logits", "decoder_input"),
        when=(lambda s: s.learning_rule not in ("bp", "shallow"), "bp and shallow have no feedback"),
    )
    feedback: str = setting(
        "uniform",
        "kind of the random matrix of dfa and modular",
        choices=FEEDBACKS,
        when=(lambda s: s.learning_rule in RANDOM_FEEDBACK, "only dfa and modular draw such a matrix"),
    )
    feedback_entries: int = setting(
        32,
        "of each hidden unit in a sparse matrix",
        low=1,
        when=(
            lambda s: s.learning_rule in RANDOM_FEEDBACK and s.feedback == "sparse",
            "only a sparse matrix counts them",
        ),
    )
    feedback_buckets: int = setting(
        512,
        "that the numbers of the error are added up in for a hashed matrix",
        low=1,
        when=(lambda s: s.learning_rule == "dfa" and s.feedback == "hashed", "only a hashed matrix has them"),
    )
    probe_every: int = setting(
        10, "steps from one of fdfa's probes to the next", low=1, when=(lambda s: s.learning_rule == "fdfa", "not fdfa")
    )
    average: float = setting(
        0.05,
        "largest step of fdfa's feedback towards a new estimate",
        low=1e-9,
        below=1 + 1e-9,
        when=(lambda s: s.learning_rule == "fdfa", "only fdfa estimates its feedback"),
    )
    optimizer: str = setting("adam", "what makes updates of gradients", choices=OPTIMIZERS)
    beta2: float = setting(0.999, "of Adam and RAdam", low=0, below=1)
    clip: float = setting(0.5, "largest norm of the gradient; 0: any", low=0)
    schedule: str = setting(
        "plateau",
        "learning rate over the steps; plateau: x 0.2 after two evaluations without a new best",
        choices=SCHEDULES,
    )
    lr: float = setting(
        1e-4, "learning rate", low=1e-12, when=(lambda s: s.schedule != "warmup", "warmup has a factor in its place")
    )
    hidden_rate: float = setting(
        1.0, "learning rate of all below the decoder, as a multiple of the decoder's", low=1e-6
    )
    factor: float = setting(
        1.0, "of the warm-up schedule", low=1e-12, when=(lambda s: s.schedule == "warmup", "only warmup reads it")
    )
    warmup: int = setting(
        4000, "steps of rising rates", low=1, when=(lambda s: s.schedule == "warmup", "only warmup reads it")
    )
    steps: int = setting(270000, "of training", low=1)
    evaluate_every: int = setting(13500, "steps from one validation to the next, and at the end", low=1)
    stop_after: int = setting(0, "validations without a new best that end the training; 0: none do", low=0)

    def __post_init__(self) -> None:
        if self.width % self.heads or self.width % 2:
            raise UserError(f"width = {self.width}: expected an even multiple of heads = {self.heads}")
        if self.feedback == "hashed" and self.learning_rule == "modular":
            raise UserError("feedback = hashed: modular's modules have errors of several widths; take another kind")
        narrowest = min(self.shape().error_width, self.width if self.learning_rule == "modular" else 1 << 24)
        if self.feedback == "sparse" and self.feedback_entries > narrowest:
            raise UserError(f"feedback_entries = {self.feedback_entries}: the error has {narrowest} numbers")
        if not self.shape().points:
            raise UserError("layers = 1: with error_at = decoder_input there is no block that feedback could reach")

    def shape(self) -> Shape:
        return Shape(
            self.vocabulary,
            self.chunk,
            self.layers,
            self.heads,
            self.width,
            self.feed_forward,
            self.norm,
            self.attention,
            self.dropout,
            self.dfa_placement,
            self.error_at,
        )
