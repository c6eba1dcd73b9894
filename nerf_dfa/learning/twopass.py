"""Direct feedback with the activation memory of one layer, whatever the depth.

Backpropagation has to keep every activation until the error comes back to it. Under direct feedback the error at the
output is all that a layer waits for, and it can be had first: one forward pass that keeps nothing gives y and
e = dL/dy; a second one goes through the layers again, and at each feedback point the layer below has at once all that
it needs. Its gradient is computed, its graph freed, and the pass goes on. The price is one forward pass more.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nerf_dfa.learning.broadcast import passed_by_relu
from nerf_dfa.learning.feedback import Feedback
from nerf_dfa.learning.rules import DirectFeedback, Hybrid, Rule, Taught
from nerf_dfa.learning.tapes import Tape, check_output, check_point


class Immediate(Tape):
    """Gives every layer its gradient at its feedback point; the error is known beforehand."""

    def __init__(self, feedback: Feedback, error: Tensor, output: Tensor) -> None:
        self._feedback, self._error, self._output = feedback, error, output
        self._messages: dict[torch.dtype, Tensor] = {}
        self._points = 0
        self.result: Tensor | None = None

    def hidden(self, h: Tensor) -> Tensor:
        signal = self._signal(h)
        if h.requires_grad:  # else nothing below learns
            h.backward(signal)
        return h.detach()

    def relu_(self, z: Tensor) -> Tensor:
        with torch.no_grad():
            h = z.relu_()
        signal = self._signal(h)
        if z.requires_grad:
            z.backward(passed_by_relu(signal, h))
        return h.detach()

    def output(self, y: Tensor) -> Tensor:
        y.backward(self._error)
        self.result = y.detach()
        self._version = self.result._version
        return self.result

    def gave(self, returned: Tensor) -> bool:
        """Whether this is what `output` returned, as it was."""
        y = self.result
        if y is None or returned._version != self._version:
            return False
        return (returned.data_ptr(), returned.shape, returned.stride()) == (y.data_ptr(), y.shape, y.stride())

    def _signal(self, h: Tensor) -> Tensor:
        """Of the next feedback point."""
        check_point(h, self._points, closed=False)
        check_output(self._error, [h], closed=False)
        self._points += 1
        layer = self._points - 1
        key = h.dtype, self._feedback.heard(layer)
        if key not in self._messages:
            (self._messages[key],) = self._feedback.message_to([layer], self._error.to(h.dtype), self._output)
        return self._feedback.project(self._messages[key], layer, h.shape[-1])


def two_pass(rule: Rule, forward: Callable[[], Tensor], loss: Callable[[Tensor], Tensor]) -> Tensor:
    """The loss, with the rule's gradients added to every parameter's `.grad`, as loss(forward()).backward() does.

    rule: the network's, with feedback that does not learn (dfa, hdfa, whose exact steps are single passes that keep all
    activations; fdfa without probing).
    forward: one forward pass of the network, the y (..., c) that it gives to tape.output (nothing may come after, such
    as a converted model's Softmax); it is called twice, with the same random numbers.
    loss: of y, a scalar; what lies behind y keeps its memory as ever.
    Raises TypeError for another rule, ValueError where something comes after tape.output (gradients are then wrong).
    """
    fixed = isinstance(rule, DirectFeedback) and not isinstance(rule, Taught)
    if not fixed or next(rule.feedback.parameters(), None) is not None:
        raise TypeError(f"two_pass needs a rule with fixed direct feedback, such as dfa; got {type(rule).__name__}")
    if isinstance(rule, Hybrid) and rule.exact:
        value = loss(forward())
        value.backward()
        return value.detach()
    random = _random_states()
    with torch.no_grad():
        y = forward()
    y = y.detach().requires_grad_()
    value = loss(y)
    value.backward()  # of what else the loss has weights in, too
    error = torch.zeros_like(y) if y.grad is None else y.grad
    after = _random_states()
    _set_random_states(random)
    tape = Immediate(rule.feedback, error, y.detach())
    with rule.using(lambda: tape):
        returned = forward()
    _set_random_states(after)
    if not tape.gave(returned):
        raise ValueError("two_pass: the forward pass has to return what it gives to tape.output, and nothing later")
    return value.detach()


def _random_states() -> tuple[Tensor, list[Tensor]]:
    """Of the CPU's generator, and of every GPU's where they are in use."""
    return torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []


def _set_random_states(states: tuple[Tensor, list[Tensor]]) -> None:
    torch.set_rng_state(states[0])
    if states[1]:
        torch.cuda.set_rng_state_all(states[1])
