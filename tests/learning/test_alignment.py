"""Alignment where the answer is known."""

import copy
import itertools
import math

import pytest
import torch
from torch import nn

from nerf_dfa.learning import RULES, make_rule
from nerf_dfa.learning.alignment import cosines, measure_alignment
from nerf_dfa.learning.convert import convert
from nerf_dfa.learning.feedback import Feedback

COUNT = itertools.count(20)


class Net(nn.Module):
    def __init__(self, rule, widths=(4, 7, 6), outputs=3, activation=torch.tanh):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.head = nn.Linear(widths[-1], outputs)
        self.activation = activation
        self.rule = make_rule(rule, outputs, widths[1:]).prepare(self)

    def forward(self, x):
        tape = self.rule.tape()
        for layer in self.layers:
            x = tape.hidden(self.activation(layer(x)))
        return tape.output(self.head(x))


class Given(Feedback):
    """Feedback through matrices of the test's own."""

    def __init__(self, matrices):
        super().__init__(matrices[0].shape[0])
        self.matrices = matrices

    def project(self, error, layer, width):
        return error @ self.matrices[layer]


def jacobians(net):
    """dy/dh_i of a linear network."""
    out = [net.head.weight.detach()]
    for layer in reversed(net.layers[1:]):
        out.insert(0, out[0] @ layer.weight.detach())
    return out


X = torch.randn(50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def measure(net, x=X, chunks=1):
    return measure_alignment(net, lambda: sum((net(part).sin() ** 2).sum() for part in x.chunk(chunks)))


def test_the_true_jacobian_of_a_linear_network_is_aligned_perfectly():
    net = Net("dfa", activation=lambda a: a).double()
    net.rule.feedback = Given(jacobians(net))
    found = measure(net)
    assert list(found.layers) == ["layer_0", "layer_1"]
    for layer in found.layers.values():
        assert (layer.mean, layer.positive, layer.samples, layer.undefined) == (pytest.approx(1), 1, 50, 0)
        assert layer.std == pytest.approx(0, abs=1e-7)
    assert all(value == pytest.approx(1) for value in found.weights.values())


def test_an_orthogonal_matrix_has_alignment_zero_and_a_reversed_one_minus_one():
    net = Net("dfa", widths=(4, 8, 8), outputs=2, activation=lambda a: a).double()
    true = jacobians(net)
    _, _, basis = torch.linalg.svd(true[0])
    net.rule.feedback = Given([basis[4:6], -true[1]])  # rows that no combination of the Jacobian's rows reaches
    found = measure(net)
    assert found.layers["layer_0"].mean == pytest.approx(0, abs=1e-9)
    assert found.layers["layer_1"].mean == pytest.approx(-1)
    assert found.layers["layer_1"].positive == 0


def test_samples_without_a_gradient_are_undefined_and_not_one():
    net = Net("dfa").double()
    found = measure_alignment(net, lambda: net(X)[10:].square().sum())
    for layer in found.layers.values():
        assert (layer.samples, layer.undefined) == (40, 10)
        assert layer.mean < 0.99
    nothing = measure_alignment(net, lambda: net(X).sum() * 0)
    assert all(layer.samples == 0 and math.isnan(layer.mean) for layer in nothing.layers.values())


def test_it_agrees_with_a_loop_over_the_samples():
    net = Net("dfa").double()
    expected = {0: [], 1: []}
    for x in X:
        h1 = torch.tanh(net.layers[0](x)).detach().requires_grad_()
        h2 = torch.tanh(net.layers[1](h1))
        y = net.head(h2)
        loss = (y.sin() ** 2).sum()
        error, *true = torch.autograd.grad(loss, [y, h1, h2])
        matrix = net.rule.feedback.projection.matrix
        for i, gradient in enumerate(true):
            signal = error @ matrix[:, : gradient.numel()]
            expected[i].append(torch.nn.functional.cosine_similarity(signal, gradient, dim=0).item())
    for i, values in expected.items():
        layer, values = measure(net).layers[f"layer_{i}"], torch.tensor(values, dtype=torch.float64)
        assert layer.mean == pytest.approx(values.mean().item())
        assert layer.std == pytest.approx(values.std(correction=0).item())
        assert layer.positive == pytest.approx((values > 0).double().mean().item())


def test_chunks_make_no_difference():
    net = Net("dfa").double()
    a, b = measure(net).layers, measure(net, chunks=3).layers
    for name in a:
        assert (a[name].mean, a[name].std, a[name].samples) == (
            pytest.approx(b[name].mean),
            pytest.approx(b[name].std),
            b[name].samples,
        )


def test_a_random_matrix_on_a_wide_layer_is_aligned_by_chance_only():
    """Cosines with a random direction in n dimensions have mean 0 and standard deviation 1 / sqrt(n)."""
    torch.manual_seed(0)
    net = Net("dfa", widths=(4, 1000), outputs=1)
    stds = []
    for seed in range(20):
        torch.manual_seed(seed)
        stds.append(measure(net, X.float()).layers["layer_0"].null_mean)
    assert abs(sum(stds) / 20) < 3 / 1000**0.5 / 20**0.5


@pytest.mark.parametrize("rule", sorted(set(RULES) - {"drtp"}))
def test_measuring_changes_nothing(rule):
    torch.manual_seed(0)
    net = Net(rule).double()
    net(X).sum().backward()
    before = copy.deepcopy(net.state_dict())
    gradients = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
    random = torch.get_rng_state()
    measure(net)
    after = net.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(torch.equal(p.grad, gradients[name]) for name, p in net.named_parameters() if p.grad is not None)
    assert torch.equal(random, torch.get_rng_state())


@pytest.mark.parametrize("rule", sorted(set(RULES) - {"drtp", "modular"}))
def test_the_weights_of_every_rule_are_compared_with_backpropagation(rule):
    torch.manual_seed(0)
    net = Net(rule).double()
    weights = measure(net).weights
    assert {"layers.0.weight", "layers.1.weight", "head.weight"} <= set(weights)
    assert weights["head.weight"] == pytest.approx(1)
    if rule in ("bp", "hdfa"):  # hdfa measures its dfa steps
        assert (weights["layers.0.weight"] == pytest.approx(1)) == (rule == "bp")
    elif rule == "shallow":
        assert math.isnan(weights["layers.0.weight"])
    else:
        assert -1 <= weights["layers.0.weight"] < 0.9999


def test_two_networks_are_told_apart():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.coarse, self.fine = Net("dfa"), Net("dkp")

    pair = Pair().double()
    found = measure_alignment(pair, lambda: pair.coarse(X).square().sum() + pair.fine(X).square().sum())
    assert list(found.layers) == ["coarse.layer_0", "coarse.layer_1", "fine.layer_0", "fine.layer_1"]
    assert "alignment/fine.layer_1/mean" in found.scalars()
    assert found.table().count("\n") == 5


def test_the_rules_that_are_none_of_direct_feedback():
    bp, shallow, fa = (measure(Net(rule).double()) for rule in ("bp", "shallow", "fa"))
    assert all((a.mean, a.samples) == (pytest.approx(1), 50) for a in bp.layers.values())
    assert all((a.samples, a.undefined) == (0, 50) for a in shallow.layers.values())
    assert all(a.samples == 50 and a.mean < 0.999 for a in fa.layers.values())


def test_inside_modules_the_signal_starts_at_the_modules_last_activation():
    net = Net("modular", widths=(4, 7, 6, 5)).double()  # modules of one and of two points
    h = [X]
    for layer in net.layers:
        h.append(torch.tanh(layer(h[-1])))
    y = net.head(h[-1])
    error, *true = torch.autograd.grad((y.sin() ** 2).sum(), [y, *h[1:]])
    feedback = net.rule.feedbacks[1]
    signals = [feedback.project(feedback.message(error), layer, width) for layer, width in enumerate((6, 5))]
    signals = [(signals[0] * (1 - h[2] ** 2)) @ net.layers[1].weight, *signals]
    found = measure(net).layers
    for i in range(3):
        expected = torch.nn.functional.cosine_similarity(signals[i], true[i])
        assert found[f"layer_{i}"].mean == pytest.approx(expected.mean().item())


def test_hybrid_steps_are_measured_as_direct_ones_and_probing_is_not_counted():
    net = Net("hdfa").double()
    net.rule.exact = True
    assert measure(net).layers["layer_0"].mean < 0.999
    assert net.rule.exact
    net = Net("fdfa").double()
    measure(net)
    assert (net.rule.feedback.passes, net.rule.feedback.estimates) == (0, 0)


def test_random_numbers_are_the_same_in_both_runs_and_buffers_are_put_back():
    class Noisy(Net):
        def forward(self, x):
            return super().forward(norm(torch.nn.functional.dropout(x, 0.5)))

    norm = nn.BatchNorm1d(4).double()
    net = Noisy("bp").double()
    net.norm = norm
    found = measure(net)
    assert all(value == pytest.approx(1) for value in [a.mean for a in found.layers.values()])
    assert all(value == pytest.approx(1) for value in found.weights.values())
    assert norm.num_batches_tracked == 0
    assert torch.equal(norm.running_mean, torch.zeros(4, dtype=torch.float64))


def test_tiny_gradients_have_a_direction_and_infinite_ones_have_none():
    torch.manual_seed(0)
    net = Net("dfa")
    usual = measure_alignment(net, lambda: net(X.float()).square().sum()).layers["layer_0"]
    tiny = measure_alignment(net, lambda: net(X.float()).square().sum() * 1e-25).layers["layer_0"]
    assert (tiny.mean, tiny.samples) == (pytest.approx(usual.mean, rel=1e-4), 50)
    endless = measure_alignment(net, lambda: net(X.float()).square().sum() * float("inf")).layers["layer_0"]
    assert (endless.samples, endless.undefined) == (0, 50)


def test_chance_has_mean_zero_and_the_spread_of_random_directions():
    torch.manual_seed(0)
    for feedback in ("uniform", "binary", "sparse"):
        net = Net("dfa", widths=(4, 400))
        net.rule = make_rule("dfa", 3, [400], feedback=feedback)
        layer = measure(net, X.float()).layers["layer_0"]
        assert abs(layer.null_mean) < 3 * 400**-0.5
        assert layer.null_std < 2 * 400**-0.5


def test_frozen_layers_have_no_gradient_to_compare():
    net = Net("dfa").double()
    net.layers[0].requires_grad_(False)
    found = measure(net)
    assert [a.samples for a in found.layers.values()] == [0, 50]
    assert set(found.weights) == {"layers.1.weight", "head.weight"}


@pytest.mark.parametrize("rule", ["dfa", "fa"])
def test_a_converted_model_is_measured_like_one_written_for_its_rule(rule):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 3)).double()
    convert(net, rule)
    found = measure(net)
    assert list(found.layers) == (["layer_0"] if rule == "dfa" else [])
    assert found.weights == {"0.weight": pytest.approx(found.weights["0.weight"]), "2.weight": pytest.approx(1)}
    assert found.weights["0.weight"] < 0.999


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda net: net(X), "tensor of one number with a graph"),
        (lambda net: net(X).sum().detach(), "tensor of one number with a graph"),
        (lambda net: net(X[: next(COUNT)]).square().sum(), r"loss\(\) gave .*, then .*: it has to be the same"),
        (lambda net: net.head.weight.sum(), "ran no forward pass, with gradients"),
    ],
)
def test_a_loss_that_cannot_be_measured_is_refused(loss, message):
    net = Net("dfa").double()
    with pytest.raises(ValueError, match=message):
        measure_alignment(net, lambda: loss(net))
    assert net(X).requires_grad  # and the rule does as ever again
    assert net.rule._factory is None


def test_a_model_without_a_rule_is_refused():
    with pytest.raises(ValueError, match="Linear has no learning rule"):
        measure_alignment(nn.Linear(2, 2), lambda: torch.zeros(()))


def test_cosines_by_hand():
    value, undefined = cosines(torch.tensor([[3.0, 0], [0, 0], [1, 1]]), torch.tensor([[0.0, 2], [1, 1], [2, 2]]))
    assert value.tolist() == pytest.approx([0, 1])
    assert undefined == 1
