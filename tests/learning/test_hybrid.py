"""The hybrid optimiser against its equations, step by step in float64."""

import copy

import pytest
import torch
from torch import nn

from nerf_dfa.learning import make_rule
from nerf_dfa.learning.hybrid import HybridAdam, HybridOptimizer


class Net(nn.Module):
    def __init__(self, rule="hdfa"):
        super().__init__()
        self.hidden, self.head = nn.Linear(4, 6), nn.Linear(6, 2)
        self.rule = make_rule(rule, 2, [6]).prepare(self)

    def forward(self, x):
        tape = self.rule.tape()
        return tape.output(self.head(tape.hidden(torch.tanh(self.hidden(x)))))


def make(rule="hdfa"):
    torch.manual_seed(0)
    return Net(rule).double()


BATCHES = torch.randn(12, 8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def run(net, optimizer, batches=BATCHES):
    kinds = []
    for x in batches:
        kinds.append(getattr(optimizer, "exact", None))
        optimizer.zero_grad()
        (net(x) - x[:, :2]).square().sum().backward()
        optimizer.step()
    return kinds


def test_steps_follow_the_equations():
    net, reference = make(), make()
    optimizer = HybridOptimizer(net, lr=0.01, probability=0.4, mix=0.7, momentum=0.8, weight_decay=0.1)
    kinds = run(net, optimizer)
    assert 0 < sum(kinds) < len(kinds)
    velocity = {kind: {n: torch.zeros_like(p) for n, p in reference.named_parameters()} for kind in (True, False)}
    for x, exact in zip(BATCHES, kinds, strict=True):
        reference.rule.exact = exact
        reference.zero_grad()
        (reference(x) - x[:, :2]).square().sum().backward()
        with torch.no_grad():
            for name, p in reference.named_parameters():
                velocity[exact][name] = 0.8 * velocity[exact][name] + p.grad + 0.1 * p
                bp, dfa = velocity[True][name], velocity[False][name]
                p -= 0.01 * (bp if exact else 0.7 * dfa + 0.3 * bp)
    for p, q in zip(net.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(p, q)


def test_adams_steps_follow_the_equations():
    net, reference = make(), make()
    optimizer = HybridAdam(net, 0.01, probability=0.4, mix=0.7, weight_decay=0.1, betas=(0.8, 0.95), eps=1e-6)
    kinds = run(net, optimizer)
    assert 0 < sum(kinds) < len(kinds)
    past = {name: [] for name, _ in reference.named_parameters()}
    for x, exact in zip(BATCHES, kinds, strict=True):
        reference.rule.exact = exact
        reference.zero_grad()
        (reference(x) - x[:, :2]).square().sum().backward()
        for name, p in reference.named_parameters():
            past[name].append((exact, p.grad + 0.1 * p.detach()))

            def mean(values, b):  # weights that sum to 1 and fall by b from the last to the first
                weights = [b ** (len(values) - 1 - i) for i in range(len(values))]
                return sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)

            def step(which, gradients=past[name]):
                own = [g for kind, g in gradients if kind is which]
                return mean(own, 0.8) / (mean([g * g for g in own], 0.95).sqrt() + 1e-6) if own else 0.0

            p.data -= 0.01 * (step(True) if exact else 0.7 * step(False) + 0.3 * step(True))
    for p, q in zip(net.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(p, q)


@pytest.mark.parametrize(
    ("hybrid", "plain"),
    [(HybridOptimizer, lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9)), (HybridAdam, torch.optim.Adam)],
)
@pytest.mark.parametrize(("probability", "rule"), [(1.0, "bp"), (0.0, "dfa")])
def test_at_the_ends_it_is_the_plain_optimiser(hybrid, plain, probability, rule):
    net, other = make(), make(rule)
    if rule == "dfa":
        other.rule.load_state_dict(net.rule.state_dict())
    run(net, hybrid(net, lr=0.02 if hybrid is HybridOptimizer else 1e-3, probability=probability, mix=1.0))
    run(other, plain(other.parameters()))
    for p, q in zip(net.hidden.parameters(), other.hidden.parameters(), strict=True):
        torch.testing.assert_close(p, q)


@pytest.mark.parametrize("hybrid", [HybridOptimizer, HybridAdam])
def test_a_resumed_optimiser_goes_on_exactly(hybrid):
    net = make()
    optimizer = hybrid(net, lr=0.01, probability=0.5)
    run(net, optimizer, BATCHES[:5])
    saved = copy.deepcopy((net.state_dict(), optimizer.state_dict()))
    kinds = run(net, optimizer, BATCHES[5:])
    other = make()
    resumed = hybrid(other, lr=0.01, probability=0.5, seed=99)
    other.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    assert run(other, resumed, BATCHES[5:]) == kinds
    for p, q in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (make("dfa"), {}, "no network with the learning rule hdfa"),
        (make(), {"probability": 1.5}, r"probability = 1.5 has to lie in \[0, 1\]"),
        (make(), {"momentum": 1.0}, r"momentum = 1.0 has to lie in \[0, 1\)"),
    ],
)
def test_wrong_arguments_are_named(model, options, message):
    with pytest.raises(ValueError, match=message):
        HybridOptimizer(model, lr=0.1, **options)


def test_wrong_arguments_of_adam_are_named():
    with pytest.raises(ValueError, match=r"betas = \(0.9, 1.0\) have to lie in \[0, 1\)"):
        HybridAdam(make(), lr=0.1, betas=(0.9, 1.0))


def test_an_unknown_argument_is_an_error():
    with pytest.raises(TypeError):
        HybridOptimizer(make(), lr=0.1, nesterov=1.0)
