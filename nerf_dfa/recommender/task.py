"""Clicks for the shared trainer, and one whole training run from its settings."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from nerf_dfa.errors import UserError
from nerf_dfa.learning.alignment import Alignment, measure_alignment
from nerf_dfa.recommender.cache import Cache, open_cache
from nerf_dfa.recommender.data import Batch, Data
from nerf_dfa.recommender.models import MODELS, ClickModel, Shape
from nerf_dfa.recommender.optimizer import LazyAdam
from nerf_dfa.recommender.settings import RANDOM_FEEDBACK, Settings
from nerf_dfa.training import Trainer
from nerf_dfa.training.cells import Diverged
from nerf_dfa.training.checkpoints import (
    check_settings,
    entry,
    list_checkpoints,
    load_checkpoint,
    load_weights,
    save_checkpoint,
)
from nerf_dfa.training.trainer import ModelCodec

EVALUATED = 8192  # rows at a time
ALIGNED = 4096  # rows of the validation part for which alignment is measured


@dataclass
class ClickTask:
    """Cross entropy of clicks; the batch of a step depends on the step and the seed alone."""

    data: Data
    rows: int  # of a batch
    seed: int

    @property
    def epoch_steps(self) -> int:
        """Steps of an epoch. A last batch of a single row, of which batch norm can make nothing, is left out."""
        return self.data.epoch_steps(self.rows) - (self.data.size("train") % self.rows == 1)

    def batch(self, step: int, generator: torch.Generator) -> Batch:
        epoch, number = divmod(step - 1, self.epoch_steps)
        return self.data.batch(epoch, number, self.rows, self.seed)

    def loss(self, model: nn.Module, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        return F.binary_cross_entropy_with_logits(model(batch.fields), batch.labels), {}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """val_auc and val_logloss."""
        return self.scores(model, "val")

    @torch.no_grad()
    def scores(self, model: nn.Module, part: str) -> dict[str, float]:
        """Area under the ROC curve and log loss (nats) of a part. Raises UserError where all its rows are alike."""
        model.eval()
        logits, labels = [], []
        for start in range(0, self.data.size(part), EVALUATED):
            batch = self.data.read(part, np.arange(start, min(start + EVALUATED, self.data.size(part))))
            logits.append(model(batch.fields))
            labels.append(batch.labels)
        logit, label = torch.cat(logits).double(), torch.cat(labels).double()
        if not 0 < label.mean() < 1:
            raise UserError(f"{self.data.cache.folder}: all rows of its {part} part have label {label[0]:g}; no AUC")
        loss = F.binary_cross_entropy_with_logits(logit, label)
        auc = roc_auc_score(label, logit) if logit.isfinite().all() else math.nan
        return {f"{part}_auc": float(auc), f"{part}_logloss": float(loss)}

    def alignment(self, model: nn.Module) -> Alignment:
        """Of every feedback point, in eval mode, for the first validation rows."""
        model.eval()
        batch = self.data.read("val", np.arange(min(ALIGNED, self.data.size("val"))))
        return measure_alignment(model, lambda: self.loss(model, batch, torch.Generator())[0])


def make_model(settings: Settings, cache: Cache) -> ClickModel:
    """The network for a cache's fields, drawn from torch's global generator."""
    s = settings
    options: dict[str, Any] = {"feedback": s.feedback} if s.learning_rule in RANDOM_FEEDBACK else {}
    if s.learning_rule == "fdfa":
        options = {"average": s.average, "every": s.every}
    own = {
        "deepfm": ("embedding_point",),
        "dcn": ("cross_layers",),
        "afn": ("neurons", "embedding_gradient", "embedding_mean"),
        "autoint": ("attention_width", "attention_layers", "heads"),
    }
    options |= {name: getattr(s, name) for name in own.get(s.model, ())}
    sizes, mlp = cache.layout.sizes, (s.mlp_width,) * s.mlp_blocks
    shape = Shape(len(sizes), sum(sizes), s.embedding, mlp, s.dropout, s.norm, s.gradient == "sparse")
    return MODELS[s.model](shape, s.learning_rule, **options)


def make_trainer(settings: Settings, data: Data, seed: int) -> Trainer:
    """Model and optimiser before the first step. The seed is that of weights, feedback, order and dropout."""
    torch.manual_seed(seed)
    s, model = settings, make_model(settings, data.cache)
    optimizer = LazyAdam(model.parameters(), clip=s.clip, weight_decay=s.weight_decay, fused=True)
    task = ClickTask(data, s.batch, seed)
    generator = torch.Generator().manual_seed(seed)
    return Trainer(model, task, optimizer, lambda step: s.lr, generator, codec=_codec(model, s))


def _codec(model: ClickModel, settings: Settings) -> ModelCodec:
    """Weights and settings; those of a checkpoint have to be the same, but for how long the run may be."""

    def load(contents: dict[str, Any], path: Path) -> None:
        check_settings(settings, contents, path, ("epochs", "patience"))
        load_weights(model, entry(contents, "model_state_dict", path), str(path))

    return ModelCodec(lambda: {"model_state_dict": model.state_dict(), "settings": asdict(settings)}, load)


def fit(trainer: Trainer, epochs: int, patience: int, folder: Path | None = None) -> dict[str, Any]:
    """Trains until the validation AUC has not risen for `patience` epochs; the model ends with its best weights.

    folder: a checkpoint of every epoch goes there (the newest stays) and the best weights (best.tar); a run that was
    interrupted goes on from them. Gives the validation scores of the best epoch, and `best_epoch` and `epochs`.
    Raises KeyboardInterrupt when Ctrl-C ended the training, Diverged where the first epoch had no finite loss.
    """
    model, steps = trainer.model, trainer.task.epoch_steps
    best: dict[str, Any] = {}
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        if found := list_checkpoints(folder):
            trainer.load(found[-1])
            best = load_checkpoint(folder / "best.tar")
    while (epoch := trainer.finished // steps) < epochs:
        if best and epoch - best["best_epoch"] >= patience:
            break
        if not trainer.run((epoch + 1) * steps):
            raise KeyboardInterrupt
        scores = trainer.task.evaluate(model)
        if not best or scores["val_auc"] > best["val_auc"]:
            weights = {name: value.clone() for name, value in model.state_dict().items()}
            best = {**scores, "best_epoch": epoch + 1, "model_state_dict": weights}
        if not math.isfinite(best["val_auc"]):
            raise Diverged("training diverged in its first epoch; a lower lr may help")
        if folder is not None:
            _keep(trainer, best, folder)
    load_weights(model, best.pop("model_state_dict"), "the best epoch")
    return {**best, "epochs": trainer.finished // steps}


def _keep(trainer: Trainer, best: dict[str, Any], folder: Path) -> None:
    """Writes the best weights, then the checkpoint that goes with them, and removes older ones."""
    older = list_checkpoints(folder)
    save_checkpoint(folder / "best.tar", best)
    trainer.save(folder)
    for path in older:
        path.unlink()


@lru_cache(maxsize=1)
def _opened(cache: Path) -> Data:
    return Data(open_cache(cache))


def train(settings: Settings, seed: int, folder: Path | None, cache: Path) -> dict[str, Any]:
    """One run: scores of validation and test with the best weights, alignment of every layer, seconds of the steps.

    cache: of the data set, made with the settings' min_count. folder: for checkpoints.
    """
    trainer = make_trainer(settings, _opened(cache), seed)
    best = fit(trainer, settings.epochs, settings.patience, folder)
    task, model = trainer.task, trainer.model
    result: dict[str, Any] = {**best, **task.scores(model, "test"), "alignment": []}
    if settings.learning_rule not in ("bp", "shallow"):
        layers = zip(task.alignment(model).layers.values(), model.feedback_widths, strict=True)
        result["alignment"] = [{"mean": a.mean, "std": a.std, "samples": a.samples, "width": w} for a, w in layers]
    return {**result, "seconds": round(trainer.seconds, 2)}
