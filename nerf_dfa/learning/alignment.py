"""Alignment: how well the feedback points along the true gradient, layer by layer.

For sample n and hidden layer i the alignment is the cosine between the signal S_ni that the rule sends and the true
gradient dL/dh_ni, both before the derivative of the activation. One forward pass that records and does not cut gives
the activations and, by autograd, e = dL/dy and the true gradients; the signals are computed from e. No second copy of
the network is needed, and nothing of the model changes: weights, gradients, feedback and random states stay.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from nerf_dfa.learning.rules import Rule


@dataclass(frozen=True)
class LayerAlignment:
    """Cosines of one feedback point over the samples of a batch.

    mean, std; positive: fraction above zero, of the `samples` that have a cosine; undefined: samples left out
    because the signal or the gradient is zero; null_mean, null_std: the same for a fresh uniform random matrix.
    All but the counts are NaN where no sample has a cosine.
    """

    mean: float
    std: float
    positive: float
    samples: int
    undefined: int
    null_mean: float
    null_std: float


@dataclass(frozen=True)
class Alignment:
    """Of every feedback point ("coarse.layer_3"), and the cosine of the rule's and BP's gradient of every weight."""

    layers: dict[str, LayerAlignment]
    weights: dict[str, float]

    def scalars(self) -> dict[str, float]:
        """Flat names, as for TensorBoard: "alignment/coarse.layer_3/mean", "alignment/weights/coarse.head.weight"."""
        flat = {}
        for name, layer in self.layers.items():
            flat |= {f"alignment/{name}/{key}": float(value) for key, value in asdict(layer).items()}
        return flat | {f"alignment/weights/{name}": value for name, value in self.weights.items()}

    def as_dict(self) -> dict[str, dict]:
        return {"layers": {name: asdict(layer) for name, layer in self.layers.items()}, "weights": self.weights}

    def table(self) -> str:
        """Markdown: a row for each feedback point."""
        rows = ["| layer | mean | std | above 0 | samples | undefined | random B |", "|---|---|---|---|---|---|---|"]
        for name, a in self.layers.items():
            null = f"{a.null_mean:+.3f} ± {a.null_std:.3f}"
            rows.append(
                f"| {name} | {a.mean:+.3f} | {a.std:.3f} | {a.positive:.0%} | {a.samples} | {a.undefined} | {null} |"
            )
        return "\n".join(rows)


def cosines(a: Tensor, b: Tensor) -> tuple[Tensor, int]:
    """Cosines of the rows of a and b (..., width) where both are not zero, and how many rows that leaves out."""
    a, b = a.reshape(-1, a.shape[-1]).double(), b.reshape(-1, b.shape[-1]).double()
    product = a.norm(dim=1) * b.norm(dim=1)
    defined = product > 0
    return (a * b).sum(1)[defined] / product[defined], int((~defined).sum())


def measure_alignment(model: nn.Module, loss: Callable[[], Tensor]) -> Alignment:
    """Alignment of all learning rules inside a model.

    loss: runs the forward pass or passes (chunks, several networks) and returns the scalar loss; it has to give the
    same value each time it is called. It is called twice.
    Layers are reported for the rules that send signals straight from the output (dfa and its kin); the gradients of
    the weights for every rule (NaN where it sends none). Raises ValueError if the model has no learning rule.
    """
    rules = {name.removesuffix("rule").rstrip("."): m for name, m in model.named_modules() if isinstance(m, Rule)}
    if not rules:
        raise ValueError(f"{type(model).__name__} has no learning rule to measure")
    own = {id(p) for rule in rules.values() for p in rule.parameters()}
    weights = {name: p for name, p in model.named_parameters() if p.requires_grad and id(p) not in own and p.dim() > 1}
    with torch.random.fork_rng(), torch.enable_grad():
        with ExitStack() as stack:
            tapes = {name: stack.enter_context(rule.collecting()) for name, rule in rules.items()}
            value = loss()
            points = [t for group in tapes.values() for tape in group for t in (tape.y, *tape.activations)]
            exact = torch.autograd.grad(value, [*points, *weights.values()], allow_unused=True)
        gradients = dict(zip(map(id, points), exact, strict=False))
        layers = {}
        for name, rule in rules.items():
            layers |= _layers(name, rule, tapes[name], gradients)
        with ExitStack() as stack:
            for rule in rules.values():
                stack.enter_context(rule.unchanged())
            value = loss()
        learned = torch.autograd.grad(value, list(weights.values()), allow_unused=True)
    pairs = zip(weights, exact[len(points) :], learned, strict=True)
    return Alignment(layers, {name: _cosine(a, b) for name, a, b in pairs if a is not None})


def _cosine(a: Tensor, b: Tensor | None) -> float:
    """Cosine of two tensors taken as vectors; NaN where the rule sends nothing or one is zero."""
    if b is None:
        return float("nan")
    value, _ = cosines(a.reshape(1, -1), b.reshape(1, -1))
    return value.item() if value.numel() else float("nan")


def _layers(name: str, rule: Rule, tapes: list, gradients: dict[int, Tensor | None]) -> dict[str, LayerAlignment]:
    """Statistics of one rule's feedback points over all of its forward passes."""
    found: dict[int, list[tuple[Tensor, Tensor, int]]] = {}
    null: dict[int, Tensor] = {}
    for tape in tapes:
        error = gradients[id(tape.y)]
        signals = None if error is None else rule.signals(error, tape.activations)
        if signals is None:
            continue
        for i, (h, signal) in enumerate(zip(tape.activations, signals, strict=True)):
            true = gradients[id(h)]
            true = torch.zeros_like(h) if true is None else true
            if i not in null:
                null[i] = torch.rand(error.shape[-1], h.shape[-1]).to(error.device) * 2 - 1
            value, undefined = cosines(signal, true)
            random, _ = cosines(error.float() @ null[i], true)
            found.setdefault(i, []).append((value, random, undefined))
    prefix = f"{name}." if name else ""
    return {f"{prefix}layer_{i}": _statistics(parts) for i, parts in sorted(found.items())}


def _statistics(parts: list[tuple[Tensor, Tensor, int]]) -> LayerAlignment:
    value, random = (torch.cat([part[k] for part in parts]) for k in (0, 1))
    undefined = sum(part[2] for part in parts)
    nan = float("nan")
    if value.numel() == 0:
        return LayerAlignment(nan, nan, nan, 0, undefined, nan, nan)
    return LayerAlignment(
        value.mean().item(),
        value.std(correction=0).item(),
        (value > 0).double().mean().item(),
        value.numel(),
        undefined,
        random.mean().item() if random.numel() else nan,
        random.std(correction=0).item() if random.numel() else nan,
    )
