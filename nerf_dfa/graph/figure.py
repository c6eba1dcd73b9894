"""What the hidden layer has made of the nodes: t-SNE of its activations (figure A.2 of Launay et al. 2020)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from sklearn.manifold import TSNE
from torch import Tensor, nn

from nerf_dfa.errors import UserError
from nerf_dfa.files import alone, written_whole
from nerf_dfa.graph.data import Graph
from nerf_dfa.graph.planetoid import read_planetoid
from nerf_dfa.graph.settings import Settings
from nerf_dfa.graph.task import fit, make_task, make_trainer

RULES = ("shallow", "bp", "dfa")
PERPLEXITY = 20


def hidden_layer(model: nn.Module, graph: Graph) -> Float[Tensor, "nodes width"]:
    """Activations at the last feedback point, in eval mode."""
    model.eval()
    with torch.enable_grad(), model.rule.collecting() as tapes:  # without gradients there is no tape to collect on
        model(graph)
    return tapes[0].activations[-1].detach()


def tsne_figure(panels: dict[str, Settings], root: str, seed: int, path: Path) -> None:
    """A panel for each setting: the test nodes (the autoencoder's: all), coloured by class. Writes an image to path.

    panels: by title, all of one data set.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with alone(path.with_name(f".{path.stem}.lock")):  # which tells before the training where nothing can be written
        _draw(panels, root, seed, path)


def _draw(panels: dict[str, Settings], root: str, seed: int, path: Path) -> None:
    figure = Figure(figsize=(4.2 * len(panels), 4.2))
    for axes, (title, settings) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels.items(), strict=True):
        task = make_task(settings, read_planetoid(settings.dataset, root), seed)
        trainer = make_trainer(settings, task, seed)
        scores = fit(trainer, settings.epochs)
        nodes = task.graph.parts["test"] if settings.model != "gae" else torch.arange(len(task.graph.labels))
        if len(nodes) <= PERPLEXITY:
            raise UserError(f"{settings.dataset}: t-SNE of perplexity {PERPLEXITY} needs more than {len(nodes)} nodes")
        hidden = hidden_layer(trainer.model, task.graph)[nodes].numpy()
        places = TSNE(perplexity=PERPLEXITY, random_state=seed, init="pca").fit_transform(hidden)
        axes.scatter(*places.T, c=task.graph.labels[nodes].numpy(), cmap="tab10", s=4)
        axes.set_title(f"{title}, test {task.score} {scores[f'test_{task.score}']:.3f}")
        axes.set_axis_off()
    figure.tight_layout()
    with written_whole(path) as unfinished:
        figure.savefig(unfinished, dpi=100)
