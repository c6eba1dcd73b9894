"""Passes of which only the rows that err go back."""

import itertools

import pytest
import torch
from torch import nn

from nerf_dfa.learning import make_rule
from nerf_dfa.learning.room import Room
from nerf_dfa.learning.selected import Selection, chosen, drawn, scores, selected


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
    got_y = selected(other, Selection(1.0), *inputs)
    got = gradients(other, got_y, target)
    torch.testing.assert_close(got_y, y)
    assert got.keys() == expected.keys()
    if rule != "fdfa":  # whose signs fall on other rows
        for name, gradient in expected.items():
            torch.testing.assert_close(got[name], gradient)


def test_what_is_known_is_not_asked_again(inputs):
    net, other, target, asked = Net("mdfa"), Net("mdfa"), torch.randn(40, 4), []

    def watched(*rows):
        asked.append(len(rows[0]))
        return other(*rows)

    torch.manual_seed(2)
    expected = gradients(net, selected(net, Selection(0.9), *inputs), target)
    with torch.no_grad():
        known = other(*inputs)
    torch.manual_seed(2)
    got = gradients(other, selected(watched, Selection(0.9), *inputs, known=known), target)
    assert len(asked) == 1
    assert asked[0] < 40
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient, rtol=0, atol=0)


def test_the_gradient_is_that_of_the_rows_that_err(inputs):
    net, other = Net("bp"), Net("bp")
    weights = torch.zeros(40, 1)
    weights[[3, 7, 21]] = torch.tensor([[1.0], [5.0], [2.0]])
    weights[30] = 1e-4
    (net(*inputs) * weights).sum().backward()
    chosen = [x[[3, 7, 21]] for x in inputs]
    (selected(other, Selection(0.99), *inputs) * weights).sum().backward()
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
        rows, weights = chosen(error, Selection(kept))
        assert weights is None
        assert score[rows].sum() >= kept * score.sum()
        assert not any(
            score[list(some)].sum() >= kept * score.sum() for some in itertools.combinations(range(8), len(rows) - 1)
        )


def test_columns_count_alike():
    error = torch.zeros(10, 2)
    error[2, 0], error[5, 1] = 1e-6, 1e6
    assert sorted(chosen(error, Selection(0.9))[0].tolist()) == [2, 5]


def test_rows_without_error_are_left_out():
    error = torch.zeros(10, 2)
    assert len(chosen(error, Selection(1.0))[0]) == len(chosen(error, Selection(0.5))[0]) == 1
    error[[1, 4]] = 1.0
    assert sorted(chosen(error, Selection(1.0))[0].tolist()) == [1, 4]


def test_without_rows_there_is_nothing_to_learn(inputs):
    net = Net("bp")
    selected(net, Selection(0.9), *(x[:0] for x in inputs)).sum().backward()
    assert not any(p.grad.any() for p in net.parameters() if p.grad is not None)


def test_autocast_and_the_forward_pass_agree(inputs):
    net = Net("dfa")
    seen = []
    net.head.register_forward_hook(lambda module, args, y: seen.append(y.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        y = selected(net, Selection(0.9), *inputs)
    y.float().square().sum().backward()
    assert seen == [torch.bfloat16, torch.bfloat16]
    assert net.layers[0].weight.grad.dtype == torch.float32


def test_nothing_is_kept_for_the_way_back(inputs):
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        selected(Net("bp"), Selection(0.9), *inputs)
    assert sorted(x.shape[1] for x in kept) == [2, 3]


@pytest.fixture
def every_draw(monkeypatch):
    """Numbers in the place of the random one, evenly over [0, 1): with their mean a draw's expectation is exact."""

    def draws(count):
        for k in range(count):
            with monkeypatch.context() as patch:
                patch.setattr(torch, "rand", lambda *_, k=k, **how: torch.tensor((k + 0.5) / count, **how))
                yield

    return draws


def test_where_more_err_some_speak_for_all(inputs, every_draw):
    """The mean of the gradients over all draws is the gradient; and a draw has as many rows as it may."""
    net, drawing, passes = Net("bp"), Net("bp"), 4000
    torch.manual_seed(3)
    weights = torch.rand(40, 4) ** 2
    (net(*inputs) * weights).sum().backward()
    seen = []
    drawing.head.register_forward_hook(lambda module, args, y: seen.append(len(y)))
    for _ in every_draw(passes):
        (selected(drawing, Selection(0.9999, 0.2), *inputs) * weights).sum().backward()
    assert set(seen) == {40, 8}
    for p, q in zip(drawing.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(p.grad / passes, q.grad, rtol=5e-3, atol=5e-3)


def test_rows_are_drawn_as_often_as_they_should(every_draw):
    """In proportion to the error's size, but none twice, by probabilities that a bisection finds."""
    torch.manual_seed(5)
    error, count = torch.randn(60, 2) ** 3, 20
    size = scores(error).double().sqrt()
    low, high = 1e-6, 1e6
    for _ in range(200):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if (size / middle).clamp(max=1).sum() > count else (low, middle)
    expected = (size / low).clamp(max=1)
    assert (expected == 1).sum() > 3
    taken, passes = torch.zeros(60), 2000
    for _ in every_draw(passes):
        rows, weights = chosen(error, Selection(0.9999, count / 60))
        assert len(rows) == len(rows.unique()) == count
        torch.testing.assert_close(weights, (1 / expected[rows]).float(), rtol=1e-3, atol=0)
        taken[rows] += 1
    torch.testing.assert_close(taken / passes, expected.float(), rtol=0, atol=2e-3)


def test_what_is_left_over_of_a_draw_counts_for_nothing():
    score = torch.zeros(50)
    score[[4, 30, 49]] = torch.tensor([1.0, 9.0, 4.0])
    for count in (10, 50):
        rows, weights = drawn(score, count)
        assert len(rows) == count
        assert rows[weights > 0].tolist() == [4, 30, 49]
        assert weights.tolist() == [1.0] * 3 + [0.0] * (len(rows) - 3)
    rows, weights = drawn(torch.zeros(50), 10)
    assert not weights.any()


def test_rows_are_drawn_only_where_more_err():
    few = torch.where(torch.arange(5000)[:, None] % 7 == 0, 1.0, 1e-6).expand(5000, 3)
    rows, weights = chosen(few, Selection(0.9999, 0.2))
    assert weights is None
    assert rows.sort()[0].tolist() == list(range(0, 5000, 7))
    rows, weights = chosen(few, Selection(0.9999, 0.1))
    assert len(rows) == 500
    assert not (rows % 7).any()
    assert weights.sum() == pytest.approx(715, rel=0.01)


def test_there_are_as_many_rows_as_are_fast():
    few = torch.where(torch.arange(500)[:, None] % 7 == 0, 1.0, 1e-6).expand(500, 3)
    for most, count in ((0.5, 96), (0.1, 64)):
        rows, weights = chosen(few, Selection(0.9999, most, 32))
        assert len(rows) == len(rows.unique()) == count
        assert (weights is None) == (most == 0.5)
    assert len(chosen(few[:20], Selection(0.9999, 1.0, 32))[0]) == 20


def test_where_the_host_does_not_wait_it_is_told_when_it_settles():
    network, room = torch.nn.Linear(4, 3), Room()
    few = torch.where(torch.arange(5000)[:, None] % 7 == 0, 1.0, 1e-6).expand(5000, 3)
    x, selection = torch.randn(5000, 4), Selection(0.9999, 0.2)
    selected(network, selection, x, room=room).backward(few)
    assert len(chosen(few, selection, room)[0]) == 1000
    assert room.share == 1
    room.settle()
    assert room.share == pytest.approx(715 / 5000)
    rows, weights = chosen(few, selection, room)
    assert weights is None
    assert len(rows) == 1024
