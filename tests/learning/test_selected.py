"""Passes of which only the rows that err go back."""

import itertools

import pytest
import torch
from torch import nn

from nerf_dfa.learning import make_rule
from nerf_dfa.learning.room import Room
from nerf_dfa.learning.selected import erring, selected


class Net(nn.Module):
    def __init__(self, rule):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.Linear(5, 16), nn.Linear(16, 16)])
        self.head = nn.Linear(16, 4)
        self.rule = make_rule(rule, 4, [16, 16]).prepare(self)

    def forward(self, x, z):
        tape = self.rule.tape()
        x = torch.cat([x, z], dim=1)
        for layer in self.layers:
            x = tape.relu_(layer(x))
        return tape.output(self.head(x))


@pytest.fixture
def inputs():
    torch.manual_seed(1)
    return torch.randn(40, 3), torch.randn(40, 2)


def gradients(net, y, target):
    (y - target).square().mean().backward()
    return {name: p.grad for name, p in net.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    "rule", ["bp", "shallow", "dfa", "dkp", "fdfa", "mdfa", "modular", "fa", "kp", "mirror", "kp_mirror"]
)
def test_with_all_rows_it_is_the_pass_itself(rule, inputs):
    net, other, target = Net(rule), Net(rule), torch.randn(40, 4)
    torch.manual_seed(2)
    y = net(*inputs)
    expected = gradients(net, y, target)
    torch.manual_seed(2)
    got_y = selected(other, 1.0, *inputs)
    got = gradients(other, got_y, target)
    torch.testing.assert_close(got_y, y)
    assert got.keys() == expected.keys()
    if rule != "fdfa":  # whose signs fall on other rows
        for name, gradient in expected.items():
            torch.testing.assert_close(got[name], gradient)


def test_the_gradient_is_that_of_the_rows_that_err(inputs):
    net, other = Net("bp"), Net("bp")
    weights = torch.zeros(40, 1)
    weights[[3, 7, 21]] = torch.tensor([[1.0], [5.0], [2.0]])
    weights[30] = 1e-4
    (net(*inputs) * weights).sum().backward()
    chosen = [x[[3, 7, 21]] for x in inputs]
    (selected(other, 0.99, *inputs) * weights).sum().backward()
    direct = Net("bp")
    (direct(*chosen) * weights[[3, 7, 21]]).sum().backward()
    for p, q, r in zip(other.parameters(), direct.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)
        assert not torch.equal(p.grad, r.grad)


def test_the_fewest_rows_are_chosen():
    """Against every set of rows."""
    torch.manual_seed(4)
    error = torch.randn(8, 2) ** 3 * torch.tensor([1.0, 100.0])
    score = (error.square() / error.square().mean(0)).sum(1)
    for kept in (0.3, 0.7, 0.9, 0.99):
        rows = erring(error, kept)
        assert score[rows].sum() >= kept * score.sum()
        assert not any(
            score[list(some)].sum() >= kept * score.sum() for some in itertools.combinations(range(8), len(rows) - 1)
        )


def test_columns_count_alike():
    error = torch.zeros(10, 2)
    error[2, 0], error[5, 1] = 1e-6, 1e6
    assert sorted(erring(error, 0.9).tolist()) == [2, 5]


def test_rows_without_error_are_left_out():
    error = torch.zeros(10, 2)
    assert len(erring(error, 1.0)) == len(erring(error, 0.5)) == 1
    error[[1, 4]] = 1.0
    assert sorted(erring(error, 1.0).tolist()) == [1, 4]


def test_without_rows_there_is_nothing_to_learn(inputs):
    net = Net("bp")
    selected(net, 0.9, *(x[:0] for x in inputs)).sum().backward()
    assert not any(p.grad.any() for p in net.parameters() if p.grad is not None)


def test_autocast_and_the_forward_pass_agree(inputs):
    net = Net("dfa")
    seen = []
    net.head.register_forward_hook(lambda module, args, y: seen.append(y.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        y = selected(net, 0.9, *inputs)
    y.float().square().sum().backward()
    assert seen == [torch.bfloat16, torch.bfloat16]
    assert net.layers[0].weight.grad.dtype == torch.float32


def test_nothing_is_kept_for_the_way_back(inputs):
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        selected(Net("bp"), 0.9, *inputs)
    assert sorted(x.shape[1] for x in kept) == [2, 3]


def test_all_rows_go_back_until_few_err():
    """A plain pass while most do, told by a part of them; then a selected one, and plain again when most do."""
    torch.manual_seed(0)
    network, x = torch.nn.Linear(4, 3), torch.randn(5000, 4)
    few = torch.where(torch.arange(5000)[:, None] % 7 == 0, 1.0, 1e-6).expand(5000, 3)
    room, calls = Room(), []

    def counted(rows):
        calls.append(len(rows))
        return network(rows)

    for error, passes in ((torch.ones(5000, 3), [5000]), (few, [5000]), (few, [5000, 715]), (few.flip(0), [5000, 715])):
        calls.clear()
        network.zero_grad()
        selected(counted, 0.9999, x, room=room).backward(error)
        assert calls == passes
        torch.testing.assert_close(network.weight.grad, error.T @ x, rtol=1e-3, atol=1e-2)
    assert room.share == 715 / 5000
    selected(counted, 0.9999, x, room=room).backward(torch.ones(5000, 3))
    assert room.share > 0.99
    calls.clear()
    selected(counted, 0.9999, x[:0], room=room).sum().backward()
    assert calls == [0]


def test_where_the_host_does_not_wait_it_is_told_when_it_settles():
    network, room = torch.nn.Linear(4, 3), Room()
    few = torch.where(torch.arange(5000)[:, None] % 7 == 0, 1.0, 1e-6).expand(5000, 3)
    selected(network, 0.9999, torch.randn(5000, 4), room=room, static=True).backward(few)
    assert room.share == 1
    room.settle()
    assert 0.05 < room.share < 0.2
