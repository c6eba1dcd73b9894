"""Classification for the shared trainer: the task, and one whole training run from its settings."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from nerf_dfa.classification.data import DATASETS, Dataset
from nerf_dfa.classification.model import ACTIVATIONS, NORMS, Classifier, free_rows
from nerf_dfa.errors import UserError
from nerf_dfa.learning import RULES
from nerf_dfa.learning.alignment import Alignment, measure_alignment
from nerf_dfa.learning.feedback import NORMALISATIONS, TargetFeedback
from nerf_dfa.learning.hybrid import HybridAdam, HybridOptimizer
from nerf_dfa.learning.projection import PROJECTIONS
from nerf_dfa.training import Trainer
from nerf_dfa.training.schedules import exponential
from nerf_dfa.training.settings import setting

ALIGNMENT_IMAGES = 512  # at most, of the validation part
EVALUATION_ROWS = 4096  # images in one forward pass

MASK_SEED = 1000  # plus the run's seed: which neurons are free

RANDOM_FEEDBACK = ("dfa", "drtp", "hdfa", "modular")  # rules that read feedback, shared, normalisation and k
SCHEDULES = ("constant", "exponential", "plateau")

Batch = tuple[Float[Tensor, "n pixels"], Int[Tensor, " n"]]


class ClassificationTask:
    """Cross entropy on batches of the training part, drawn with replacement, plus l1 * sum |W| if asked.

    L2 is the optimiser's business (weight decay). drtp is told its targets here.
    """

    def __init__(self, dataset: Dataset, batch_size: int = 64, l1: float = 0.0) -> None:
        self.dataset, self.batch_size, self.l1 = dataset, batch_size, l1

    def batch(self, step: int, generator: torch.Generator) -> Batch:
        labels = self.dataset.labels["train"]
        rows = torch.randint(len(labels), (self.batch_size,), generator=generator)
        return self.dataset.images["train"][rows], labels[rows]

    def loss(self, model: nn.Module, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        images, labels = batch
        logits = model(images)
        self._tell_targets(model, labels)
        loss = F.cross_entropy(logits, labels)
        if self.l1:
            weights = (p for name, p in model.named_parameters() if name.endswith("weight") and p.dim() > 1)
            loss = loss + self.l1 * sum(p.abs().sum() for p in weights)
        return loss, {"accuracy": (logits.detach().argmax(1) == labels).float().mean()}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Fraction of images recognised, of the validation and of the test part."""
        return {f"{part}_accuracy": self.accuracy(model, part) for part in ("val", "test")}

    @torch.no_grad()
    def accuracy(self, model: nn.Module, part: str) -> float:
        model.eval()
        images, labels = self.dataset.images[part], self.dataset.labels[part]
        right = sum(
            int((model(x).argmax(1) == y).sum())
            for x, y in zip(images.split(EVALUATION_ROWS), labels.split(EVALUATION_ROWS), strict=True)
        )
        return right / len(labels)

    def alignment(self, model: nn.Module) -> Alignment:
        """Of every feedback point, in eval mode on the first validation images: always the same ones."""
        model.eval()
        batch = self.dataset.images["val"][:ALIGNMENT_IMAGES], self.dataset.labels["val"][:ALIGNMENT_IMAGES]
        return measure_alignment(model, lambda: self.loss(model, batch, torch.Generator())[0])

    def _tell_targets(self, model: nn.Module, labels: Tensor) -> None:
        feedback = getattr(getattr(model, "rule", None), "feedback", None)
        if isinstance(feedback, TargetFeedback):
            feedback.targets = F.one_hot(labels, self.dataset.classes).float()


class Plateau:
    """Learning rate that is multiplied by `factor` when `patience` evaluations in a row bring no better one.

    A schedule for the trainer; `observe` the validation accuracy at every evaluation.
    """

    def __init__(self, rate: float, factor: float = 0.2, patience: int = 1) -> None:
        self.rate, self.factor, self.patience = rate, factor, patience
        self.best, self.waited = -1.0, 0

    def __call__(self, step: int) -> float:
        return self.rate

    def observe(self, accuracy: float) -> None:
        self.waited = 0 if accuracy > self.best else self.waited + 1
        self.best = max(accuracy, self.best)
        if self.waited >= self.patience:
            self.rate, self.waited = self.rate * self.factor, 0


@dataclass(frozen=True)
class Fit:
    """Accuracies at the evaluation with the best validation accuracy (the first of equals), and its step."""

    val_accuracy: float
    test_accuracy: float
    best_step: int
    steps: int


def fit(trainer: Trainer, steps: int, evaluate_every: int, patience: int = 0) -> Fit:
    """Trains for so many steps, or until `patience` evaluations in a row bring no better one (0: never).

    Raises KeyboardInterrupt when Ctrl-C ended the training.
    """
    best, waited = Fit(-1.0, -1.0, 0, 0), 0
    while trainer.finished < steps and not (patience and waited >= patience):
        if not trainer.run(min(trainer.finished + evaluate_every, steps)):
            raise KeyboardInterrupt
        scores = trainer.task.evaluate(trainer.model)
        if isinstance(trainer.schedule, Plateau):
            trainer.schedule.observe(scores["val_accuracy"])
        waited += 1
        if scores["val_accuracy"] > best.val_accuracy:
            best, waited = Fit(scores["val_accuracy"], scores["test_accuracy"], trainer.finished, 0), 0
    return replace(best, steps=trainer.finished)


OPTIMISERS: dict[str, Callable[[nn.Module, Settings, int], torch.optim.Optimizer]] = {
    "adam": lambda model, s, seed: torch.optim.Adam(
        model.parameters(),
        betas=(0.9, s.beta2),
        weight_decay=s.weight_decay or s.l2,
        decoupled_weight_decay=s.weight_decay > 0,
        fused=True,  # one kernel for all parameters: these are so small that calls are what costs
    ),
    "radam": lambda model, s, seed: torch.optim.RAdam(model.parameters(), betas=(0.9, s.beta2), weight_decay=s.l2),
    "rmsprop": lambda model, s, seed: torch.optim.RMSprop(model.parameters(), weight_decay=s.l2),
    "sgd": lambda model, s, seed: torch.optim.SGD(
        model.parameters(), momentum=s.momentum, weight_decay=s.l2, fused=True
    ),
    "hybrid": lambda model, s, seed: HybridOptimizer(
        model, 1.0, s.probability, momentum=s.momentum, weight_decay=s.l2, seed=seed
    ),  # the trainer sets its learning rate
    "hybrid_adam": lambda model, s, seed: HybridAdam(
        model, 1.0, s.probability, mix=1.0, betas=(0.9, s.beta2), weight_decay=s.l2, seed=seed
    ),
}


@dataclass(frozen=True)
class Settings:
    """One training run, all but its learning rate and its seed."""

    dataset: str = setting("digits", "what is classified", choices=DATASETS)
    width: int = setting(64, "of the hidden layers", low=1)
    depth: int = setting(4, "hidden layers", low=1)
    activation: str = setting("tanh", "of the hidden layers", choices=tuple(ACTIVATIONS))
    norm: str = setting("none", "normalisation behind each layer", choices=tuple(NORMS))
    dropout: float = setting(0.0, "share of the units that are left out", low=0, below=1)
    free: int = setting(-1, "neurons of the second hidden layer that learn; -1: all", low=-1)
    rule: str = setting("dfa", "how the network learns", choices=tuple(RULES))
    feedback: str = setting("uniform", "kind of the random matrix", choices=tuple(PROJECTIONS))
    shared: bool = setting(True, "one matrix B for all layers")
    normalisation: str = setting("layer", "of the feedback", choices=tuple(NORMALISATIONS))
    k: int = setting(1, "entries per column of sparse feedback", low=1)
    average: float = setting(0.05, "largest step of fdfa's feedback towards a new estimate", low=1e-9)
    optimiser: str = setting("adam", "hybrid and hybrid_adam are hdfa's", choices=tuple(OPTIMISERS))
    momentum: float = setting(0.0, "of sgd and hybrid", low=0, below=1)
    probability: float = setting(0.1, "of an exact step of hdfa", low=0, below=1)
    beta2: float = setting(0.999, "of adam, hybrid_adam and radam", low=0, below=1)
    rate_scale: float = setting(1.0, "the grid of learning rates is multiplied by it", low=1e-9)
    l1: float = setting(0.0, "times sum |W|, added to the loss", low=0)
    l2: float = setting(0.0, "half of it times sum W^2, added to the loss", low=0)
    weight_decay: float = setting(0.0, "decoupled, as in AdamW; optimiser adam only", low=0)
    schedule: str = setting("constant", "of the learning rate", choices=SCHEDULES)
    decay: float = setting(0.1, "exponential: over the whole run; plateau: at each", low=1e-9)
    plateau: int = setting(1, "evaluations without a better one", low=1)
    steps: int = setting(400, "of training", low=1)
    batch_size: int = setting(64, "examples of a step", low=1)
    evaluate_every: int = setting(50, "steps", low=1)
    patience: int = setting(0, "early stopping after so many evaluations without a better one; 0: never", low=0)

    def __post_init__(self) -> None:
        if self.weight_decay and (self.l2 or self.optimiser != "adam"):
            raise UserError(f"weight_decay = {self.weight_decay}: only with optimiser adam and without l2")
        if self.optimiser.startswith("hybrid") != (self.rule == "hdfa"):
            raise UserError(f"optimiser hybrid or hybrid_adam and rule hdfa go together: {self.optimiser}, {self.rule}")
        if self.free > self.width or (self.free >= 0 and self.depth < 2):
            raise UserError(f"free = {self.free}: the second of {self.depth} layers has {self.width}")


def make_trainer(settings: Settings, dataset: Dataset, rate: float, seed: int) -> Trainer:
    """Model, task and optimiser before the first step. The seed is that of weights, feedback, mask and batches."""
    s = settings
    torch.manual_seed(seed)
    options: dict[str, Any] = {}
    if s.rule in RANDOM_FEEDBACK:
        options = {"feedback": s.feedback, "shared": s.shared, "normalisation": s.normalisation}
        options |= {"k": s.k} if s.feedback == "sparse" else {}
    if s.rule == "fdfa":
        options = {"average": s.average}
    model = Classifier(
        s.width, s.depth, dataset.classes, s.activation, s.rule, s.dropout, s.norm, options, dataset.pixels
    )
    if s.free >= 0:
        free_rows(model.layers[1], s.free, torch.Generator().manual_seed(MASK_SEED + seed))
    rate *= s.rate_scale
    schedule = exponential(rate, s.steps if s.schedule == "exponential" else 0, s.decay)
    if s.schedule == "plateau":
        schedule = Plateau(rate, s.decay, s.plateau)
    task = ClassificationTask(dataset, s.batch_size, s.l1)
    optimiser = OPTIMISERS[s.optimiser](model, s, seed)
    return Trainer(model, task, optimiser, schedule, torch.Generator().manual_seed(seed))


def train(settings: Settings, dataset: Dataset, rate: float, seed: int) -> dict[str, Any]:
    """One run: its accuracies at the best validation, the mean alignment of every layer at its end, its seconds.

    A layer without a cosine (below shallow's cut, or where training diverged) has alignment None.
    """
    start = time.perf_counter()
    trainer = make_trainer(settings, dataset, rate, seed)
    scores = fit(trainer, settings.steps, settings.evaluate_every, settings.patience)
    means = [layer.mean for layer in trainer.task.alignment(trainer.model).layers.values()]
    alignment = [round(mean, 4) if math.isfinite(mean) else None for mean in means]
    return {**asdict(scores), "alignment": alignment, "seconds": round(time.perf_counter() - start, 2)}
