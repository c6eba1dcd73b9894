"""Graphs for the shared trainer: nodes to classify, edges to tell, and one whole training run from its settings."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor, nn

from nerf_dfa.graph.data import Graph, Links, make_graph, with_folds, with_links
from nerf_dfa.graph.models import MODELS
from nerf_dfa.graph.planetoid import read_planetoid
from nerf_dfa.graph.settings import ATTENTIVE, RANDOM_FEEDBACK, Settings
from nerf_dfa.learning.alignment import Alignment, measure_alignment
from nerf_dfa.training import Trainer
from nerf_dfa.training.cells import Diverged

EMBEDDING = 16  # units of the autoencoder's embedding

_read = lru_cache(maxsize=1)(read_planetoid)  # many runs of one process have the same graph


class NodeTask:
    """Cross entropy of the training nodes' logits, all of them in every step."""

    score = "accuracy"  # of the validation part: the best epoch has the largest

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def batch(self, step: int, generator: torch.Generator) -> Int[Tensor, " nodes"]:
        return self.graph.parts["train"]

    def loss(
        self, model: nn.Module, batch: Int[Tensor, " nodes"], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        logits, labels = model(self.graph, "train")[batch], self.graph.labels[batch]
        return F.cross_entropy(logits, labels), {"accuracy": (logits.detach().argmax(1) == labels).float().mean()}

    @torch.no_grad()
    def evaluate(self, model: nn.Module, parts: Sequence[str] = ("val", "test")) -> dict[str, float]:
        """Fraction of nodes recognised, of each part."""
        model.eval()
        scores = {}
        for part in parts:
            nodes = self.graph.parts[part]
            right = model(self.graph, part)[nodes].argmax(1) == self.graph.labels[nodes]
            scores[f"{part}_accuracy"] = float(right.double().mean())
        return scores

    def alignment(self, model: nn.Module) -> Alignment:
        """Of every feedback point, in eval mode, for the loss of the training nodes: no other has a signal."""
        model.eval()
        return measure_alignment(model, lambda: self.loss(model, self.graph.parts["train"], torch.Generator())[0])


class LinkTask:
    """The graph autoencoder's: edges have large inner products of their ends' embeddings, other pairs small ones.

    Cross entropy of all training edges, and of as many random pairs that are no training edges, drawn in every step.
    """

    score = "auc"

    def __init__(self, graph: Graph, links: Links) -> None:
        self.graph, self.links = graph, links
        self.nodes = len(graph.labels)
        self._taken = torch.cat([self._numbers(graph.edges), torch.arange(self.nodes) * (self.nodes + 1)])

    def _numbers(self, pairs: Int[Tensor, "2 pairs"]) -> Int[Tensor, " pairs"]:
        """One number for each ordered pair of nodes."""
        return pairs[0] * self.nodes + pairs[1]

    def batch(self, step: int, generator: torch.Generator) -> Int[Tensor, "2 _"]:
        """Pairs of different nodes without an edge in the training graph, one for each of its edges or nearly."""
        pairs = torch.randint(self.nodes, self.links.edges["train"].shape, generator=generator)
        return pairs[:, ~torch.isin(self._numbers(pairs), self._taken)]

    def loss(
        self, model: nn.Module, batch: Int[Tensor, "2 _"], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        z = model(self.graph)
        likely = F.softplus(-inner_products(z, self.links.edges["train"])).mean()
        return likely + F.softplus(inner_products(z, batch)).mean(), {}

    @torch.no_grad()
    def evaluate(self, model: nn.Module, parts: Sequence[str] = ("val", "test")) -> dict[str, float]:
        """Area under the ROC curve and average precision, of each part."""
        model.eval()
        z = model(self.graph)
        scores = {}
        for part in parts:
            edges, others = self.links.edges[part], self.links.others[part]
            truth = [1] * edges.shape[1] + [0] * others.shape[1]
            values = inner_products(z, torch.cat([edges, others], dim=1))
            for name, of_ranking in (("auc", roc_auc_score), ("ap", average_precision_score)):
                scores[f"{part}_{name}"] = float(of_ranking(truth, values)) if values.isfinite().all() else math.nan
        return scores

    def alignment(self, model: nn.Module) -> Alignment:
        """Of every feedback point, in eval mode, for one draw of pairs that are no edges: always the same."""
        model.eval()
        batch = self.batch(1, torch.Generator().manual_seed(0))
        return measure_alignment(model, lambda: self.loss(model, batch, torch.Generator())[0])


def inner_products(z: Float[Tensor, "nodes width"], pairs: Int[Tensor, "2 pairs"]) -> Float[Tensor, " pairs"]:
    """Logit of an edge between the two nodes of each pair."""
    return (z[pairs[0]] * z[pairs[1]]).sum(1)


def make_task(settings: Settings, data: Any, seed: int) -> NodeTask | LinkTask:
    """data: torch_geometric's Data. The seed is that of the folds or held-out edges, where the model has them."""
    graph = make_graph(settings.dataset, data, MODELS[settings.model].row_normalised)
    if settings.model == "gae":
        return LinkTask(*with_links(graph, seed))
    return NodeTask(with_folds(graph, seed) if settings.model == "dna" else graph)


def make_trainer(settings: Settings, task: NodeTask | LinkTask, seed: int) -> Trainer:
    """Model and optimiser before the first step. The seed is that of weights, feedback and dropout."""
    s, graph = settings, task.graph
    torch.manual_seed(seed)
    options: dict[str, Any] = {"feedback": s.feedback} if s.learning_rule in RANDOM_FEEDBACK else {}
    if s.learning_rule == "fdfa":
        options = {"average": s.average}
    if s.model != "dna":
        options["feature_dropout"] = s.feature_dropout
    if s.model in ATTENTIVE:
        options["attention_dropout"] = s.attention_dropout
    if s.model == "gat":
        options["top_attention_dropout"] = s.top_attention_dropout
    out = EMBEDDING if s.model == "gae" else graph.classes
    model = MODELS[s.model](graph.features.shape[1], out, s.learning_rule, s.dropout, **options)
    decayed = {id(p) for p in model.decayed()}
    groups = [
        {"params": [p for p in model.parameters() if (id(p) in decayed) == with_decay], "weight_decay": decay}
        for with_decay, decay in ((True, s.weight_decay), (False, 0.0))
    ]
    optimizer = torch.optim.Adam([group for group in groups if group["params"]], fused=True)
    return Trainer(model, task, optimizer, lambda step: s.lr, torch.Generator().manual_seed(seed))


def fit(trainer: Trainer, epochs: int) -> dict[str, float | int]:
    """Trains, and gives the scores at the epoch with the best validation score (the first of equals).

    The test part is looked at only there, where its scores stay.
    Raises KeyboardInterrupt when Ctrl-C ended the training, Diverged where the first epoch's score is not finite.
    """
    best: dict[str, float | int] = {}
    score = f"val_{trainer.task.score}"
    while trainer.finished < epochs:
        if not trainer.run(trainer.finished + 1):
            raise KeyboardInterrupt
        scores = trainer.task.evaluate(trainer.model, ("val",))
        if not best or scores[score] > best[score]:
            if not math.isfinite(scores[score]):
                raise Diverged("training diverged in its first epoch; a lower lr may help")
            best = {**scores, **trainer.task.evaluate(trainer.model, ("test",)), "best_epoch": trainer.finished}
    return best


def train(settings: Settings, seed: int, folder: Path | None = None, root: str = "data/planetoid") -> dict[str, Any]:
    """One run: scores at the best epoch, alignment of every layer at the end, seconds.

    folder: where the last epoch's checkpoint goes.
    """
    start = time.perf_counter()
    task = make_task(settings, _read(settings.dataset, root), seed)
    trainer = make_trainer(settings, task, seed)
    scores = fit(trainer, settings.epochs)
    layers = task.alignment(trainer.model).layers.values() if settings.learning_rule not in ("bp", "shallow") else []
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        trainer.save(folder)
    alignment = [{"mean": layer.mean, "std": layer.std, "samples": layer.samples} for layer in layers]
    return {**scores, "alignment": alignment, "seconds": round(time.perf_counter() - start, 2)}
