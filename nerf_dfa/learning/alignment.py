"""Alignment: how well the feedback points along the true gradient, layer by layer.

For sample n and hidden layer i the alignment is the cosine between the signal S_ni that the rule sends and the true
gradient dL/dh_ni, both before the derivative of the activation. Two runs of the same forward pass tell: in one the
rules only collect, and autograd gives dL/dh_i of the network; in the other they do as ever, and what autograd finds at
h_i is S_i, whatever the rule. Both give the gradients of the weights besides. No second copy of the network is needed,
and nothing of the model changes: weights, gradients, feedback, buffers and random states stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from nerf_dfa.learning.rules import Rule, Sequential
from nerf_dfa.learning.tapes import Collect, Tape

# Random matrices that stand for chance, and at most how many of the samples they are tried on.
NULL_DRAWS, NULL_ROWS = 4, 4096


@dataclass(frozen=True)
class LayerAlignment:
    """Cosines of one feedback point over the samples of a batch.

    mean, std; positive: fraction above zero, of the `samples` that have a cosine; undefined: samples left out because
    the signal or the gradient is zero or not finite; null_mean, null_std: the same by chance, for matrices of the same
    kind: the rule's own with columns shuffled and signs drawn anew, which has mean 0 and std width^-1/2.
    All but the counts are NaN where no sample has a cosine. In a layer of one unit a cosine is a sign.
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


class Watched(Collect):
    """Keeps the activations as Collect does, and otherwise is the tape of the rule's own."""

    def __init__(self, tape: Tape) -> None:
        super().__init__()
        self._tape = tape

    def hidden(self, h: Tensor) -> Tensor:
        return self._tape.hidden(super().hidden(h))

    def output(self, y: Tensor) -> Tensor:
        return self._tape.output(super().output(y))


def measure_alignment(model: nn.Module, loss: Callable[[], Tensor]) -> Alignment:
    """Alignment of all learning rules inside a model.

    loss: runs the forward pass or passes (chunks, several networks) and returns the scalar loss. It is called twice,
    with the same random numbers, and has to give the same value. Buffers that it changes are put back.
    Every rule's feedback points and weights are reported: those of bp have alignment 1, below shallow's there is no
    signal and all samples are undefined. fdfa does not probe meanwhile, and hdfa is measured as dfa.
    Raises ValueError if the model has no learning rule, for a loss that is no scalar with a graph or changes from call
    to call, and if no pass asked a rule for a tape (fa and its kin need none, and then have no layers here).
    """
    rules = {_owner(path): module for path, module in model.named_modules() if isinstance(module, Rule)}
    if not rules:
        raise ValueError(f"{type(model).__name__} has no learning rule to measure")
    own = {id(p) for rule in rules.values() for p in rule.parameters()}
    weights = {name: p for name, p in model.named_parameters() if p.requires_grad and id(p) not in own and p.dim() > 1}
    devices = sorted({p.device.index for p in model.parameters() if p.is_cuda})

    def gradients(context: Callable[[Rule], AbstractContextManager[list[Collect]]]) -> _Gradients:
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(devices))
            return _gradients({n: stack.enter_context(context(r)) for n, r in rules.items()}, weights.values(), loss)

    with torch.random.fork_rng(devices), _state_kept(model), torch.inference_mode(False), torch.enable_grad():
        true, sent = gradients(lambda rule: rule.collecting()), gradients(_watching)
        if not torch.allclose(true.value, sent.value, rtol=1e-4, equal_nan=True) or true.shapes() != sent.shapes():
            raise ValueError(
                f"loss() gave {true.value.item():.6g}, then {sent.value.item():.6g}: it has to be the same each time"
            )
        layers = {name: _layer(sent.points[name], gradient) for name, gradient in true.points.items()}
    if not layers and not any(isinstance(rule, Sequential) for rule in rules.values()):  # these need no tape
        raise ValueError("loss() ran no forward pass, with gradients, of a network with a learning rule")
    pairs = zip(weights, sent.weights, true.weights, strict=True)
    return Alignment(layers, {name: _cosine(a, b) for name, a, b in pairs if b is not None})


def cosines(a: Tensor, b: Tensor) -> tuple[Tensor, int]:
    """Cosines of the rows of a and b (..., width) where both have a direction, and how many rows that leaves out.

    A row that is zero or not finite has none.
    """
    (a, has_a), (b, has_b) = _directions(a), _directions(b)
    defined = has_a & has_b
    return (a * b).sum(1)[defined], int((~defined).sum())


def _directions(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (N, width) of norm 1, and whether there is one; gradients may be small enough that squares underflow."""
    x = x.reshape(-1, x.shape[-1])
    x = x.float() if x.element_size() < 4 else x
    largest = x.abs().amax(1, keepdim=True)
    x = x / largest
    return x / x.norm(dim=1, keepdim=True), ((largest > 0) & largest.isfinite())[:, 0]


@dataclass
class _Gradients:
    """Of the loss: its value, gradients (rows, width) by feedback point, and those of the weights."""

    value: Tensor
    points: dict[str, Tensor]
    weights: tuple[Tensor | None, ...]

    def shapes(self) -> dict[str, torch.Size]:
        return {name: gradient.shape for name, gradient in self.points.items()}


def _gradients(tapes: dict[str, list[Collect]], weights: Iterable[Tensor], loss: Callable[[], Tensor]) -> _Gradients:
    """Runs the loss; tapes: the lists that the rules' passes fill meanwhile."""
    value = loss()
    if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
        raise ValueError("loss() has to return a tensor of one number with a graph")
    activations: dict[str, list[Tensor]] = {}  # of every point, in all passes
    for name, passes in tapes.items():
        for i, h in ((i, h) for tape in passes for i, h in enumerate(tape.activations)):
            activations.setdefault(f"{name}.layer_{i}".lstrip("."), []).append(h)
    learning = [h for parts in activations.values() for h in parts if h.requires_grad]
    found = torch.autograd.grad(value, [*learning, *weights], allow_unused=True)
    known = {id(h): gradient for h, gradient in zip(learning, found, strict=False) if gradient is not None}
    points = {
        name: torch.cat([known.get(id(h), torch.zeros_like(h)).reshape(-1, h.shape[-1]) for h in parts])
        for name, parts in activations.items()
    }
    return _Gradients(value.detach(), points, found[len(learning) :])


def _owner(path: str) -> str:
    """Name of the network that a rule belongs to: "coarse" for "coarse.rule"."""
    network, _, name = path.rpartition(".")
    return network if name == "rule" else path


@contextmanager
def _watching(rule: Rule) -> Iterator[list[Collect]]:
    """Within it, passes have the rule's gradients; the gradient of an activation is the signal sent to it."""
    tapes: list[Collect] = []
    with rule.unchanged(), rule.drawing_apart():
        make = rule._factory or rule._tape

        def watched() -> Tape:
            tapes.append(Watched(make()))
            return tapes[-1]

        with rule.using(watched):
            yield tapes


@contextmanager
def _state_kept(model: nn.Module) -> Iterator[None]:
    """Puts back what passes change, such as the statistics of batch normalisation and feedback that mirrors weights."""
    parameters = [(p, p.data) for p in model.parameters()]  # passes give them other data, if anything
    buffers = [(m, name, b, b.clone()) for m in model.modules() for name, b in m._buffers.items() if b is not None]
    try:
        yield
    finally:
        for parameter, data in parameters:
            parameter.data = data
        for module, name, buffer, before in buffers:
            module._buffers[name] = buffer
            if not torch.equal(buffer, before):
                with torch.no_grad():
                    buffer.copy_(before)


def _layer(signal: Tensor, true: Tensor) -> LayerAlignment:
    """Statistics of one feedback point; both (rows, width)."""
    (signal, has_signal), (true, has_true) = _directions(signal), _directions(true)
    defined = has_signal & has_true
    signal, true = signal[defined], true[defined]
    n, nan = len(true), float("nan")
    if n == 0:
        return LayerAlignment(nan, nan, nan, 0, len(defined), nan, nan)
    values = (signal * true).sum(1)
    some = slice(None, None, -(-n // NULL_ROWS))
    null = torch.cat([(_reshuffled(signal[some]) * true[some]).sum(1) for _ in range(NULL_DRAWS)])
    (mean, std), (null_mean, null_std) = ((x.mean().item(), x.std(correction=0).item()) for x in (values, null))
    positive = (values > 0).float().mean().item()
    return LayerAlignment(mean, std, positive, n, len(defined) - n, null_mean, null_std)


def _reshuffled(signal: Tensor) -> Tensor:
    """The signals that B would have sent with its columns in another order and their signs drawn anew."""
    width = signal.shape[1]
    signs = torch.randint(0, 2, (width,)) * 2 - 1
    return signal[:, torch.randperm(width).to(signal.device)] * signs.to(signal)


def _cosine(a: Tensor | None, b: Tensor) -> float:
    """Cosine of two tensors taken as vectors; NaN where the rule sends nothing or one is zero."""
    a, b = (torch.zeros_like(b) if a is None else a).to_dense(), b.to_dense()  # those of embeddings can be sparse
    values, _ = cosines(a.reshape(1, -1), b.reshape(1, -1))
    return values.item() if values.numel() else float("nan")
