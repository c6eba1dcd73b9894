"""Learning rules, as what a network's forward pass calls.

A network owns a rule and asks it for a tape, once for each forward pass:

    tape = self.rule.tape()
    for layer in self.layers:
        x = tape.hidden(torch.relu(layer(x)))      # a feedback point after each non-linearity
    return tape.output(self.head(x))

It does not know which rule it has. `loss.backward()` then leaves in every parameter's `.grad` what the rule
says; optimisers, mixed precision, gradient accumulation and chunked forward passes need no change.

| rule    | signal at hidden layer i, in place of dL/dh_i      | source                                  |
|---------|----------------------------------------------------|-----------------------------------------|
| bp      | dL/dh_i itself                                     | Rumelhart et al. 1986                   |
| dfa     | e @ B_i, B_i fixed and random, e = dL/dy           | Nøkland 2016; Launay et al. 2020        |
| shallow | none: only the top layer learns                    | the baseline that a rule has to beat    |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from nerf_dfa.learning.broadcast import broadcast
from nerf_dfa.learning.feedback import DenseFeedback, Feedback


class Tape:
    """What one forward pass tells its learning rule.

    This one changes nothing: it is backpropagation's, and that of every pass that needs no gradient.
    """

    def hidden(self, h: Tensor) -> Tensor:
        """A feedback point: takes an activation (..., width), returns what the next layer reads."""
        return h

    def output(self, y: Tensor) -> Tensor:
        """The network's output (..., c) before its last activation; once, at the end."""
        return y


class Cut(Tape):
    """Stops every gradient at the feedback points, so that the top layer alone learns."""

    def hidden(self, h: Tensor) -> Tensor:
        return h.detach()


class Record(Tape):
    """Collects the activations, cuts between them and joins them to the output (`Broadcast`)."""

    def __init__(self, feedback: Feedback) -> None:
        self._feedback = feedback
        self._hidden: list[Tensor] = []
        self._closed = False

    def hidden(self, h: Tensor) -> Tensor:
        if self._closed:
            raise RuntimeError(f"feedback point {len(self._hidden)} comes after tape.output; ask for a new tape")
        if not h.is_floating_point():
            raise TypeError(f"feedback point {len(self._hidden)} is {h.dtype}; it has to be a floating-point tensor")
        self._hidden.append(h)
        return h.detach()

    def output(self, y: Tensor) -> Tensor:
        if self._closed:
            raise RuntimeError("tape.output was called twice; a tape serves one forward pass")
        self._closed = True
        if not self._hidden:
            raise RuntimeError("no feedback point before tape.output: the network never called tape.hidden")
        for i, h in enumerate(self._hidden):
            if h.shape[:-1] != y.shape[:-1]:
                raise ValueError(
                    f"feedback point {i} has batch dimensions {tuple(h.shape[:-1])}, the output has "
                    f"{tuple(y.shape[:-1])}; each row of the error goes to the same row of every hidden layer"
                )
        return broadcast(self._feedback, y, self._hidden)


class Rule(nn.Module):
    """A learning rule: a factory of tapes, and a module so that what it holds lives with the model."""

    def tape(self) -> Tape:
        """A tape for one forward pass; without gradients every rule's pass is the same."""
        return self._tape() if torch.is_grad_enabled() else Tape()

    def _tape(self) -> Tape:
        raise NotImplementedError


class Backpropagation(Rule):
    """The exact gradient; each layer's error travels back through the weights above it."""

    def _tape(self) -> Tape:
        return Tape()


class Shallow(Rule):
    """Only the top layer learns, on random features: any rule that trains hidden layers has to beat it."""

    def _tape(self) -> Tape:
        return Cut()


class DirectFeedbackAlignment(Rule):
    """Every hidden layer gets a fixed random projection of the error at the output.

    dW_i = ((e @ B_i) * f'(a_i))^T h_{i-1};   the top layer's gradient is exact.
    """

    def __init__(self, feedback: Feedback) -> None:
        super().__init__()
        self.feedback = feedback

    def _tape(self) -> Tape:
        return Record(self.feedback)


RULES: dict[str, Callable[[int, Sequence[int]], Rule]] = {
    "bp": lambda error_width, hidden_widths: Backpropagation(),
    "dfa": lambda error_width, hidden_widths: DirectFeedbackAlignment(DenseFeedback(error_width, max(hidden_widths))),
    "shallow": lambda error_width, hidden_widths: Shallow(),
}


def make_rule(name: str, error_width: int, hidden_widths: Sequence[int]) -> Rule:
    """The learning rule of that name for a network with these feedback points.

    error_width: width c of the network's output; hidden_widths: width of each feedback point, in order.
    Random matrices are drawn from torch's global generator, after the weights if the rule is made last.
    Raises ValueError for an unknown name or a network without hidden layers.
    """
    if name not in RULES:
        raise ValueError(f"unknown learning rule '{name}'; there are {', '.join(RULES)}")
    if not hidden_widths:
        raise ValueError(f"learning rule '{name}' needs at least one hidden layer")
    return RULES[name](error_width, hidden_widths)
