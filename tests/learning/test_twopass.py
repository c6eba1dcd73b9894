"""The two-pass mode gives the gradients of the one-pass mode, and frees what it does not need."""

import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

from nerf_dfa.learning import make_rule
from nerf_dfa.learning.twopass import two_pass


class Net(nn.Module):
    def __init__(self, rule="dfa", depth=6, width=8, dropout=0.0, **options):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.head = nn.Linear(width, 3)
        self.dropout = dropout
        self.rule = make_rule(rule, 3, [width] * depth, **options).prepare(self)
        self.watch = lambda h: None

    def forward(self, x):
        tape = self.rule.tape()
        for layer in self.layers:
            h = nn.functional.dropout(torch.tanh(layer(x)), self.dropout)
            self.watch(h)
            x = tape.hidden(h)
            del h
        return tape.output(self.head(x))


@pytest.mark.parametrize(
    ("rule", "options"),
    [
        ("dfa", {}),
        ("dfa", {"shared": False}),
        ("dfa", {"feedback": "sparse"}),
        ("dfa", {"reach": [None] * 4 + [slice(1, 3), slice(0, 2)]}),
        ("hdfa", {}),
        ("fdfa", {"every": 99}),
    ],
)
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_gradients_equal_those_of_one_pass(rule, options, dropout):
    torch.manual_seed(0)
    net, x = Net(rule, dropout=dropout, **options).double(), torch.randn(2, 5, 8, dtype=torch.float64)
    if rule == "fdfa":
        net.rule.feedback.due = 99  # the next probe is far

    def loss(y):
        return (y.sin() ** 2).sum()

    torch.manual_seed(7)
    value = loss(net(x))
    value.backward()
    after = torch.rand(())
    expected = {name: p.grad.clone() for name, p in net.named_parameters()}
    net.zero_grad()
    torch.manual_seed(7)
    got = two_pass(net.rule, lambda: net(x), loss)
    assert torch.equal(torch.rand(()), after)
    torch.testing.assert_close(got, value.detach())
    for name, p in net.named_parameters():
        torch.testing.assert_close(p.grad, expected[name], rtol=1e-10, atol=1e-12)


def test_no_more_than_two_activations_live_at_a_time():
    net, x, alive = Net(depth=10), torch.randn(4, 8), []
    most = 0

    def watch(h):
        nonlocal most
        alive.append(StorageWeakRef(h.untyped_storage()))
        most = max(most, sum(not a.expired() for a in alive))

    net.watch = watch
    two_pass(net.rule, lambda: net(x), lambda y: y.square().sum())
    assert most <= 2
    alive.clear()
    most = 0
    net(x).square().sum().backward()
    assert most == 10


def test_a_pass_that_goes_on_after_the_output_is_refused():
    net, x = Net(), torch.randn(4, 8)
    with pytest.raises(ValueError, match="has to return what it gives"):
        two_pass(net.rule, lambda: net(x).softmax(-1), lambda y: y.square().sum())


@pytest.mark.parametrize("rule", ["bp", "shallow", "dkp", "fa", "mdfa"])
def test_other_rules_are_refused(rule):
    net = Net(rule)
    with pytest.raises(TypeError, match="needs a rule with fixed direct feedback"):
        two_pass(net.rule, lambda: net(torch.randn(4, 8)), lambda y: y.sum())
