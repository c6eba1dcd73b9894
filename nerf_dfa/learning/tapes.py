"""Tapes: what one forward pass of a network is for.

A network asks its learning rule for a tape, hands it every hidden activation and finally its output, and never
knows which tape it has. The tape decides what the next layer reads and what `backward` will bring.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from nerf_dfa.learning.broadcast import broadcast, feedback_point
from nerf_dfa.learning.feedback import Feedback, TargetFeedback


class Tape:
    """Changes nothing: backpropagation's tape, and that of every pass that needs no gradient."""

    def hidden(self, h: Tensor) -> Tensor:
        """A feedback point: takes an activation (..., width), returns what the next layer reads."""
        return h

    def relu_(self, z: Tensor) -> Tensor:
        """hidden(relu(z)) of a pre-activation z (..., width) that nobody else needs: it may be overwritten."""
        return self.hidden(torch.relu(z) if torch.is_grad_enabled() else z.relu_())

    def output(self, y: Tensor) -> Tensor:
        """The network's output (..., c) before its last activation; once, at the end."""
        return y


class Cut(Tape):
    """Stops every gradient at the feedback points, so that the top layer alone learns."""

    def hidden(self, h: Tensor) -> Tensor:
        check_learning("a feedback point")
        return h.detach()


class Collect(Tape):
    """Keeps the activations and the output of a pass that is otherwise left alone, to look at them afterwards."""

    def __init__(self) -> None:
        self.activations: list[Tensor] = []
        self.y: Tensor | None = None

    def hidden(self, h: Tensor) -> Tensor:
        check_point(h, len(self.activations), closed=self.y is not None)
        self.activations.append(h)
        return h

    def output(self, y: Tensor) -> Tensor:
        check_output(y, self.activations, closed=self.y is not None)
        self.y = y
        return y


class Record(Tape):
    """Makes every activation a feedback point, cuts below it, and joins all to the output (broadcast.py)."""

    def __init__(self, feedback: Feedback) -> None:
        self.feedback = feedback
        self._tokens: list[Tensor] = []
        self._closed = False

    def hidden(self, h: Tensor) -> Tensor:
        check_point(h, len(self._tokens), self._closed)
        self._tokens.append(feedback_point(self.feedback, len(self._tokens), h))
        return h.detach()

    def relu_(self, z: Tensor) -> Tensor:
        check_point(z, len(self._tokens), self._closed)
        with torch.no_grad():
            h = z.relu_()
        self._tokens.append(feedback_point(self.feedback, len(self._tokens), z, relu=True))
        return h.detach()

    def output(self, y: Tensor) -> Tensor:
        return broadcast(self.feedback, y, self.close(y))

    def close(self, y: Tensor) -> list[Tensor]:
        """The tokens, checked against the output; nothing may follow."""
        check_output(y, self._tokens, self._closed)
        if y.shape[-1] != self.feedback.error_width:
            raise ValueError(
                f"the output is {y.shape[-1]} wide, but the feedback was made for an error of "
                f"{self.feedback.error_width}"
            )
        self._closed = True
        return self._tokens


class Aimed(Record):
    """Record of feedback made of targets, which are told to this pass alone, after its output and before `backward`.

    passes: where the tape puts itself with its output.
    """

    targets: Tensor | None = None

    def __init__(self, feedback: TargetFeedback, passes: list[tuple[Aimed, Tensor]]) -> None:
        super().__init__(feedback)
        self._passes = passes

    def output(self, y: Tensor) -> Tensor:
        y = broadcast(self.feedback, y, self.close(y), self._tell)
        self._passes.append((self, y))
        return y

    def _tell(self, error: Tensor) -> None:
        self.feedback.targets = self.targets


class RecordModules(Tape):
    """Modular DFA: inside a module as `Record`, with the module's last activation as its output.

    That activation goes on uncut, so that the layer above sends its own delta down by backpropagation, and this is
    the error that the feedback spreads inside the module.
    """

    def __init__(self, feedbacks: Iterable[Feedback], sizes: Sequence[int]) -> None:
        self._ends = [sum(sizes[: i + 1]) - 1 for i in range(len(sizes))]
        self._feedbacks = list(feedbacks)
        self._count = 0
        self._module = 0
        self._open = Record(self._feedbacks[0])

    def hidden(self, h: Tensor) -> Tensor:
        last_module = len(self._ends) - 1
        check_point(h, self._count, closed=self._module > last_module)
        inside = self._module == last_module or self._count < self._ends[self._module]
        self._count += 1
        if inside:
            return self._open.hidden(h)
        module, self._module = self._open, self._module + 1
        alone = self._count == 1 or self._ends[self._module - 1] - 1 in self._ends[: self._module - 1]
        self._open = Record(self._feedbacks[self._module])
        return h if alone else module.output(h)

    def output(self, y: Tensor) -> Tensor:
        if self._count != self._ends[-1] + 1:
            raise RuntimeError(
                f"the modules have {self._ends[-1] + 1} feedback points, but the network called {self._count}"
            )
        self._module = len(self._ends)
        return self._open.output(y)


def check_point(h: Tensor, number: int, closed: bool) -> None:
    """Raises RuntimeError after the output and without gradients, TypeError for a tensor that can have none."""
    if closed:
        raise RuntimeError(f"feedback point {number} comes after tape.output; ask for a new tape")
    check_learning(f"feedback point {number}")
    if not h.is_floating_point():
        raise TypeError(f"feedback point {number} is {h.dtype}; it has to be a floating-point tensor")


def check_learning(point: str) -> None:
    """Raises RuntimeError where gradients are off, though the pass began with them."""
    if not torch.is_grad_enabled():
        raise RuntimeError(
            f"{point} lies in a part that runs without gradients (torch.no_grad, or a reentrant checkpoint, whose "
            "second run would have the exact ones): take it out, or checkpoint with use_reentrant=False"
        )


def check_output(y: Tensor, hidden: Sequence[Tensor], closed: bool) -> None:
    """Raises RuntimeError for a second output or no feedback point, ValueError for rows that do not match."""
    if closed:
        raise RuntimeError("tape.output was called twice; a tape serves one forward pass")
    if not hidden:
        raise RuntimeError("no feedback point before tape.output: the network never called tape.hidden")
    for number, h in enumerate(hidden):
        if h.shape[:-1] != y.shape[:-1]:
            raise ValueError(
                f"feedback point {number} has batch dimensions {tuple(h.shape[:-1])}, the output has "
                f"{tuple(y.shape[:-1])}; each row of the error goes to the same row of every hidden layer"
            )
