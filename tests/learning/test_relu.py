"""A ReLU in place is a feedback point like any other."""

import itertools

import pytest
import torch
from torch import nn

from nerf_dfa.learning import RULES, make_rule
from nerf_dfa.learning.twopass import two_pass

X = torch.randn(5, 7, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self, rule, in_place, **options):
        super().__init__()
        torch.manual_seed(1)
        widths = [6, 16, 16, 8]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.head = nn.Linear(8, 3)
        if rule == "modular":
            options["modules"] = [2, 1]
        self.rule = make_rule(rule, 3, widths[1:], **options).prepare(self)
        self.double()
        self.in_place = in_place

    def forward(self, x):
        tape = self.rule.tape()
        for layer in self.layers:
            x = tape.relu_(layer(x)) if self.in_place else tape.hidden(torch.relu(layer(x)))
        return tape.output(self.head(x))


def passes(net, count=2):
    """Outputs, gradients and buffers after passes with the same random numbers."""
    torch.manual_seed(2)
    if hasattr(getattr(net.rule, "feedback", None), "targets"):  # drtp
        net.rule.feedback.targets = torch.ones(5, 7, 3, dtype=torch.float64)
    outputs = []
    for _ in range(count):
        y = net(X)
        y.square().mean().backward()
        outputs.append(y.detach())
    return outputs, [p.grad for p in net.parameters()], list(net.buffers())


@pytest.mark.parametrize(
    ("rule", "options"),
    [(rule, {}) for rule in RULES]
    + [("dfa", {"shared": False}), ("dfa", {"feedback": "sparse"}), ("dfa", {"feedback": "seeded"})],
)
def test_outputs_gradients_and_feedback_are_the_same(rule, options):
    for a, b in zip(*(passes(Net(rule, in_place, **options)) for in_place in (False, True)), strict=True):
        assert len(a) == len(b) > 0 or a == b
        for left, right in zip(a, b, strict=True):
            torch.testing.assert_close(left, right)


def test_two_passes_take_it_too():
    one, two = (Net("dfa", in_place=True) for _ in range(2))
    one(X).square().mean().backward()
    two_pass(two.rule, lambda: two(X), lambda y: y.square().mean())
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_a_shared_signal_is_not_overwritten():
    """Layers of equal width get the very message, and a mask in place would be every layer's."""
    net = Net("dfa", in_place=True)
    messages = []
    net.rule.feedback.register_module("spy", None)
    make = net.rule.feedback.message
    net.rule.feedback.message = lambda error: messages.append(make(error)) or messages[-1]
    net(X).square().mean().backward()
    (message,) = messages
    assert message.count_nonzero() == message.numel()


def test_what_is_needed_elsewhere_cannot_be_overwritten_unnoticed():
    net = Net("dfa", in_place=True)
    tape = net.rule.tape()
    z = net.layers[0](X).exp()  # exp keeps its result for its backward pass
    h = tape.relu_(z)
    h = tape.relu_(net.layers[1](h))
    y = tape.output(net.head(tape.relu_(net.layers[2](h))))
    with pytest.raises(RuntimeError, match="inplace"):
        y.sum().backward()


def test_points_are_checked():
    net = Net("dfa", in_place=True)
    tape = net.rule.tape()
    with pytest.raises(TypeError, match="feedback point 0"):
        tape.relu_(torch.ones(2, 3, dtype=torch.int64))
