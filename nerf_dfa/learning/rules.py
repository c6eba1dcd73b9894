"""Learning rules, as what a network's forward pass calls.

A network owns a rule and asks it for a tape, once for each forward pass:

    self.rule = make_rule("dfa", error_width=4, hidden_widths=[256, 256]).prepare(self)     # last in __init__
    ...
    tape = self.rule.tape()
    for layer in self.layers:
        x = tape.hidden(torch.relu(layer(x)))      # a feedback point after each non-linearity
    return tape.output(self.head(x))

For a ReLU `x = tape.relu_(layer(x))` does the same in less time. The network does not know which rule it has.
`loss.backward()` then leaves in every parameter's `.grad` what the rule says; optimisers, mixed precision, gradient
accumulation and chunked forward passes need no change.

In this table S_i is the signal in place of dL/dh_i, e = dL/dy the error at the output (..., c), h_i the activation
of layer i, delta_i = S_i * f'(a_i), and dW_i = delta_i^T h_{i-1}. The top layer always has its exact gradient.

| rule        | S_i                                             | source                                         |
|-------------|-------------------------------------------------|------------------------------------------------|
| `bp`        | delta_{i+1} W_{i+1}, the gradient itself        | Rumelhart et al. 1986                          |
| `shallow`   | 0: only the top layer learns                    | the baseline that a rule has to beat           |
| `dfa`       | e B_i, fixed and random                         | Nøkland 2016; Launay et al. 2019, 2020         |
| `dkp`       | e B_i, and B_i learns by dB_i = e^T h_i         | Akrout et al. 2019; Webster et al. 2021        |
| `fdfa`      | e B_i, and B_i follows the mean Jacobian        | Bacho and Chu 2024; see probing.py             |
| `mdfa`      | e B_i, and B_i is fitted to what mirrors send   | Lansdell et al. 2020; see taught.py            |
| `drtp`      | -t B_i, t the targets instead of the error      | Frenkel et al. 2019                            |
| `hdfa`      | bp with probability p, else dfa: see hybrid.py  | Han and Yoo 2020                               |
| `modular`   | e B_i inside modules, bp between them           | Han and Yoo 2020                               |
| `fa`        | delta_{i+1} R_{i+1}, R fixed and random         | Lillicrap et al. 2016                          |
| `usf`       | the same, R = c sgn(W)                          | Liao et al. 2016                               |
| `brsf`      | the same, R = |M_t| sgn(W), M_t drawn anew      | Liao et al. 2016                               |
| `frsf`      | the same, R = |M| sgn(W)                        | Liao et al. 2016                               |
| `kp`        | the same, and R learns by the update of W       | Kolen and Pollack 1994; Akrout et al. 2019     |
| `mirror`    | the same, and R learns from W's answer to noise | Akrout et al. 2019                             |
| `kp_mirror` | the same, and R learns by both                  | Akrout et al. 2019; see sequential.py          |
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from nerf_dfa.learning.feedback import Feedback, IndependentFeedback, LearnedFeedback, SharedFeedback, TargetFeedback
from nerf_dfa.learning.linears import OtherLinear, swap_linears
from nerf_dfa.learning.probing import Probe, ProbedFeedback
from nerf_dfa.learning.projection import OnDevice, Projection, make_projection
from nerf_dfa.learning.sequential import KINDS, SequentialLinear, send_back
from nerf_dfa.learning.tapes import Aimed, Collect, Cut, Record, RecordModules, Tape
from nerf_dfa.learning.taught import Lesson, TaughtFeedback


class Rule(nn.Module):
    """A learning rule: a factory of tapes, and a module so that what it holds lives with the model."""

    def __init__(self) -> None:
        super().__init__()
        self._factory: Callable[[], Tape] | None = None  # stands in for _tape while measuring
        self._network: list[nn.Module] = []

    def tape(self) -> Tape:
        """A tape for one forward pass; without gradients every rule's pass is the same."""
        if not torch.is_grad_enabled():
            return Tape()
        return self._tape() if self._factory is None else self._factory()

    def _tape(self) -> Tape:
        return Tape()

    def forward(self, x: Tensor) -> Tensor:
        """x as it is: a rule is no layer, but an nn.Sequential that owns one calls it as its last."""
        return x

    def prepare(self, network: nn.Module) -> Rule:
        """Changes the network's layers where the rule needs it; call it when they are made. Returns the rule."""
        self._network = [network]  # in a list: the network owns the rule, not the other way round
        return self

    @contextmanager
    def collecting(self) -> Iterator[list[Collect]]:
        """Within it, forward passes have their exact gradients, and their tapes are in the list: to measure."""
        tapes: list[Collect] = []

        def collect() -> Tape:
            tapes.append(Collect())
            return tapes[-1]

        with self._layers_are("exact"), self.using(collect):
            yield tapes

    def drawing_apart(self) -> AbstractContextManager[None]:
        """Within it, the random numbers that the network's layers draw for the rule are none of the network's own."""
        return self._layers_are("apart")

    @contextmanager
    def _layers_are(self, state: str) -> Iterator[None]:
        """Within it, this attribute is true of all layers that the rule has put into the network."""
        layers = [m for network in self._network for m in network.modules() if isinstance(m, SequentialLinear)]
        for layer in layers:
            setattr(layer, state, True)
        try:
            yield
        finally:
            for layer in layers:
                setattr(layer, state, False)

    def _check_prepared(self) -> None:
        """Raises RuntimeError before a pass of layers that would send their errors back through their weights."""
        if not self._network:
            raise RuntimeError("this rule replaces the network's linear layers: call rule.prepare(network) first")

    def unchanged(self) -> AbstractContextManager[None]:
        """Within it, passes give the rule's gradients: none learns from a pass, hdfa makes no exact ones."""
        return nullcontext()

    @contextmanager
    def using(self, factory: Callable[[], Tape]) -> Iterator[None]:
        """Within it, forward passes get their tapes from the factory."""
        before, self._factory = self._factory, factory
        try:
            yield
        finally:
            self._factory = before


class Backpropagation(Rule):
    """The exact gradient; each layer's error travels back through the weights above it."""


class Shallow(Rule):
    """Only the top layer learns, on random features: any rule that trains hidden layers has to beat it."""

    def _tape(self) -> Tape:
        return Cut()


class DirectFeedback(Rule):
    """Every hidden layer gets the error at the output by a path of its own: `dfa` and `dkp`."""

    def __init__(self, feedback: Feedback) -> None:
        super().__init__()
        self.feedback = feedback

    def _tape(self) -> Tape:
        return Record(self.feedback)

    def unchanged(self) -> AbstractContextManager[None]:
        return self.using(lambda: Record(self.feedback))


class TargetProjection(DirectFeedback):
    """Direct feedback made of targets: set `feedback.targets`, or tell each pass its own where there are several."""

    feedback: TargetFeedback

    def __init__(self, feedback: TargetFeedback) -> None:
        super().__init__(feedback)
        self._passes: list[tuple[Aimed, Tensor]] | None = None

    def _tape(self) -> Tape:
        return Record(self.feedback) if self._passes is None else Aimed(self.feedback, self._passes)

    def unchanged(self) -> AbstractContextManager[None]:
        return nullcontext()

    @contextmanager
    def aiming(self) -> Iterator[list[tuple[Aimed, Tensor]]]:
        """Within it, passes with gradients are put in the list with their outputs; set `.targets` of each."""
        self._passes = passes = []
        try:
            yield passes
        finally:
            self._passes = None


class ForwardProbed(DirectFeedback):
    """Direct feedback that is estimated by forward perturbation in some of the passes (`ProbedFeedback`)."""

    feedback: ProbedFeedback

    def _tape(self) -> Tape:
        return Probe(self.feedback) if self.feedback.next_estimates() else Record(self.feedback)

    def prepare(self, network: nn.Module) -> Rule:
        swap_linears(network, OtherLinear)
        return super().prepare(network)


class Taught(DirectFeedback):
    """Direct feedback that is fitted, in some of the passes, to what mirrors send back (`TaughtFeedback`)."""

    feedback: TaughtFeedback

    def _tape(self) -> Tape:
        self._check_prepared()
        return Lesson(self.feedback) if self.feedback.next_estimates() else Record(self.feedback)

    def prepare(self, network: nn.Module) -> Rule:
        send_back(network, "kp_mirror")
        return super().prepare(network)


class Hybrid(DirectFeedback):
    """Direct feedback, or the exact gradient while `exact` is set; the optimisers of hybrid.py set it."""

    def __init__(self, feedback: Feedback) -> None:
        super().__init__(feedback)
        self.exact = False

    def _tape(self) -> Tape:
        return Tape() if self.exact else Record(self.feedback)


class Modular(Rule):
    """Direct feedback inside modules, from each module's last activation; backpropagation between modules."""

    def __init__(self, feedbacks: Sequence[Feedback], sizes: Sequence[int]) -> None:
        super().__init__()
        self.feedbacks = nn.ModuleList(feedbacks)
        self.sizes = tuple(sizes)

    def _tape(self) -> Tape:
        return RecordModules(self.feedbacks, self.sizes)


class Sequential(Rule):
    """Backpropagation with other matrices than the weights on the way back: the kinds of sequential.py."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def _tape(self) -> Tape:
        self._check_prepared()
        return super()._tape()

    def prepare(self, network: nn.Module) -> Rule:
        send_back(network, self.kind)
        return super().prepare(network)


def _feedback(
    error_width: int,
    hidden_widths: Sequence[int],
    feedback: str | Projection = "uniform",
    shared: bool = True,
    normalisation: str = "layer",
    device: torch.device | str | None = None,
    **options: int,
) -> SharedFeedback | IndependentFeedback:
    """feedback: a kind of projection.py or a projection of the caller's own; device: where it stays; options: k."""

    def projection(width: int) -> Projection:
        made = (
            feedback if isinstance(feedback, Projection) else make_projection(feedback, error_width, width, **options)
        )
        return made if device is None else OnDevice(made, device)

    if isinstance(feedback, Projection) and not shared:
        raise ValueError("one projection of your own cannot serve independent feedback; leave shared = True")
    if shared:
        return SharedFeedback(projection(max(hidden_widths)), normalisation)
    return IndependentFeedback([projection(width) for width in hidden_widths], normalisation)


def _dfa(error_width: int, hidden_widths: Sequence[int], **options) -> Rule:
    return DirectFeedback(_feedback(error_width, hidden_widths, **options))


def _drtp(
    error_width: int, hidden_widths: Sequence[int], normalisation: str = "layer", shared: bool = True, **options
) -> Rule:
    if not shared:
        raise ValueError("drtp has one matrix for all layers; leave shared = True")
    projection = _feedback(error_width, hidden_widths, **options).projection
    return TargetProjection(TargetFeedback(projection, normalisation))


def _modular(error_width: int, hidden_widths: Sequence[int], modules: Sequence[int] | None = None, **options) -> Rule:
    """modules: how many of the feedback points, in order, belong to each module; None: two halves."""
    if modules is None:
        half = len(hidden_widths) // 2
        modules = [half, len(hidden_widths) - half] if half else [len(hidden_widths)]
    if sum(modules) != len(hidden_widths) or min(modules) < 1:
        raise ValueError(f"modules = {list(modules)} have to share out the {len(hidden_widths)} feedback points")
    feedbacks, start = [], 0
    for size in modules:
        widths = list(hidden_widths[start : start + size])
        start += size
        error = error_width if start == len(hidden_widths) else widths[-1]
        feedbacks.append(_feedback(error, widths, **options))
    return Modular(feedbacks, modules)


def _sequential(kind: str) -> Callable[[int, Sequence[int]], Rule]:
    return lambda error_width, hidden_widths: Sequential(kind)


RULES: dict[str, Callable[..., Rule]] = {
    "bp": lambda error_width, hidden_widths: Backpropagation(),
    "shallow": lambda error_width, hidden_widths: Shallow(),
    "dfa": _dfa,
    "dkp": lambda error_width, hidden_widths: DirectFeedback(LearnedFeedback(error_width, hidden_widths)),
    "fdfa": lambda error_width, hidden_widths, **options: ForwardProbed(
        ProbedFeedback(error_width, hidden_widths, **options)
    ),
    "mdfa": lambda error_width, hidden_widths, **options: Taught(TaughtFeedback(error_width, hidden_widths, **options)),
    "drtp": _drtp,
    "hdfa": lambda error_width, hidden_widths, **options: Hybrid(_feedback(error_width, hidden_widths, **options)),
    "modular": _modular,
    **{kind: _sequential(kind) for kind in KINDS},
}


def make_rule(
    name: str,
    error_width: int,
    hidden_widths: Sequence[int],
    reach: Sequence[slice | None] = (),
    **options,
) -> Rule:
    """The learning rule of that name for a network with these feedback points.

    error_width: width c of the network's output; hidden_widths: width of each feedback point, in order. reach: for a
    network with branches, which outputs each point leads to (None: all); direct rules then send it the errors of these
    alone.
    options: for dfa, hdfa, drtp and modular: feedback (a kind of projection.py, or a Projection), normalisation
    ("layer", "max", "full" or "none"), device, k (sparse), and but for drtp shared; modular: modules; fdfa and mdfa:
    every, growth, first and average; mdfa: conditional.
    Random matrices are drawn from torch's global generator, after the weights if the rule is made last.
    Raises ValueError for an unknown name, a network without hidden layers, or drtp with a reach (its targets are of all
    outputs); TypeError for an unknown option.
    """
    if name not in RULES:
        raise ValueError(f"unknown learning rule '{name}'; there are {', '.join(RULES)}")
    if not hidden_widths:
        raise ValueError(f"learning rule '{name}' needs at least one hidden layer")
    if reach and len(reach) != len(hidden_widths):
        raise ValueError(f"reach is of {len(reach)} feedback points, and there are {len(hidden_widths)}")
    for part in reach:
        if part is not None and (part.step not in (None, 1) or not range(error_width)[part]):
            raise ValueError(f"reach {part}: expected a slice of at least one of {error_width} outputs, without a step")
    if name == "drtp" and any(part is not None for part in reach):
        raise ValueError("drtp sends the targets of all outputs to every layer; it takes no reach")
    rule = RULES[name](error_width, hidden_widths, **options)
    if isinstance(rule, DirectFeedback):
        rule.feedback.reach = tuple(reach)
    return rule
