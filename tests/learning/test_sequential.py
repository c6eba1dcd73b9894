"""The sequential family and modular DFA, written out in float64."""

import itertools
import math

import pytest
import torch
from torch import nn

from nerf_dfa.learning import make_rule
from nerf_dfa.learning.sequential import KINDS, MIRRORED, MIRRORING, OWN, UPDATED, SequentialLinear, send_back


class Net(nn.Module):
    def __init__(self, rule, widths=(4, 7, 6, 5), outputs=3, **options):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.head = nn.Linear(widths[-1], outputs)
        self.rule = make_rule(rule, outputs, widths[1:], **options).prepare(self)

    def forward(self, x):
        tape = self.rule.tape()
        for layer in self.layers:
            x = tape.hidden(torch.tanh(layer(x)))
        return tape.output(self.head(x))


def make(rule, **options):
    torch.manual_seed(0)
    return Net(rule, **options).double()


X = torch.randn(2, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def learn(net):
    net.zero_grad()
    (net(X).sin() ** 2).sum().backward()
    return {name: p.grad for name, p in net.named_parameters() if p.grad is not None}


def forward(net):
    """Activations of all layers, output and error, without autograd."""
    with torch.no_grad():
        h = [X.reshape(-1, 4)]
        for layer in net.layers:
            h.append(torch.tanh(h[-1] @ layer.weight.T + layer.bias))
        y = h[-1] @ net.head.weight.T + net.head.bias
    return h, 2 * y.sin() * y.cos()


def back_matrix(layer):
    """R by the table, from what the layer keeps."""
    size = layer.in_features**-0.5
    if layer.kind in OWN:
        return layer.back.detach()
    if layer.kind == "usf":
        return layer.weight.detach().sign() * size * math.sqrt(2 / math.pi)
    return layer.weight.detach().sign() * layer.magnitude


@pytest.mark.parametrize("kind", ["usf", "frsf", *OWN])
def test_errors_travel_back_through_the_other_matrix(kind):
    net = make(kind)
    got = learn(net)
    h, delta = forward(net)
    above = net.head
    torch.testing.assert_close(got["head.weight"], delta.T @ h[-1])
    for i in reversed(range(3)):
        delta = (delta @ back_matrix(above)) * (1 - h[i + 1] ** 2)
        torch.testing.assert_close(got[f"layers.{i}.weight"], delta.T @ h[i])
        torch.testing.assert_close(got[f"layers.{i}.bias"], delta.sum(0))
        above = net.layers[i]


def test_batchwise_magnitudes_are_drawn_anew_with_the_signs_of_the_weights():
    layer = SequentialLinear(nn.Linear(6, 5), "brsf")
    a, b = layer.backward_matrix(), layer.backward_matrix()
    assert not torch.equal(a, b)
    for matrix in (a, b):
        assert torch.equal(matrix.sign(), layer.weight.sign())


@pytest.mark.parametrize("kind", OWN)
def test_with_the_weights_themselves_it_is_backpropagation(kind):
    net, exact = make(kind), make("bp")
    for layer in net.modules():
        if isinstance(layer, SequentialLinear):
            layer.back.data = layer.weight.data.clone()
    got, expected = learn(net), learn(exact)
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient)


@pytest.mark.parametrize("kind", UPDATED)
def test_kolen_pollack_matrices_learn_by_the_updates_of_the_weights(kind, monkeypatch):
    monkeypatch.setattr(SequentialLinear, "mirror", SequentialLinear.backward_matrix)
    net = make(kind)
    got = learn(net)
    for i in (1, 2):
        torch.testing.assert_close(got[f"layers.{i}.back"], got[f"layers.{i}.weight"])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, weight_decay=1.0)
    before = (net.head.back - net.head.weight).norm()
    for _ in range(50):
        learn(net)
        optimizer.step()
    assert ((net.head.back - net.head.weight).norm() / before).item() == pytest.approx(0.99**50, rel=1e-6)


@pytest.mark.parametrize("kind", MIRRORING)
def test_a_mirror_comes_nearer_by_what_its_rows_of_noise_tell(kind):
    """Of the mean square distance (in - 1) / (rows + in - 1) is left each time."""
    torch.manual_seed(0)
    layer = SequentialLinear(nn.Linear(40, 300), kind).double()
    left = [(layer.back - layer.weight).square().sum().item()]
    for _ in range(5):
        layer.mirror()
        left.append((layer.back - layer.weight).square().sum().item())
    for before, after in itertools.pairwise(left):
        assert after / before == pytest.approx(39 / (MIRRORED + 39), rel=0.15)


def test_a_mirror_looks_only_where_its_signal_is_wanted():
    net = make("mirror")

    def matrices():
        return [layer.back.detach().clone() for layer in net.layers]

    start = matrices()
    learn(net)
    first = matrices()
    assert torch.equal(first[0], start[0])  # nobody reads the data's gradient
    assert not torch.equal(first[1], start[1])
    with torch.no_grad():
        net(X)
    net.eval()(X)
    assert torch.equal(matrices()[1], first[1])


@pytest.mark.parametrize("kind", MIRRORING)
@pytest.mark.parametrize("compiled", [False, True])
def test_a_pass_goes_back_by_the_matrices_that_it_had(kind, compiled):
    """Though another one comes in between, as where a batch is made in chunks."""
    net = make(kind)
    run = torch.compile(net, backend="aot_eager") if compiled else net
    loss = run(X).square().sum()
    used = [layer.back.detach().clone() for layer in (*net.layers, net.head)]
    run(X)
    assert not torch.equal(net.head.back, used[-1])
    loss.backward()
    again = make(kind)
    for layer, matrix in zip((*again.layers, again.head), used, strict=True):
        layer.back.data = matrix
        layer.mirror = layer.backward_matrix
    again(X).square().sum().backward()
    for layer, other in zip(net.layers, again.layers, strict=True):
        torch.testing.assert_close(layer.weight.grad, other.weight.grad)


@pytest.mark.parametrize("kind", ["kp", "mirror", "kp_mirror"])
def test_by_updates_and_answers_a_matrix_becomes_the_weights_though_these_move(kind):
    """By updates alone it stays where it was, relative to them; by answers alone it runs after them."""
    net = make(kind)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
    for _ in range(60):
        learn(net)
        optimizer.step()
    distance = max((layer.back - layer.weight).abs().max().item() for layer in (*net.layers[1:], net.head))
    assert (distance < 1e-12) == (kind == "kp_mirror")


def test_names_and_weights_stay():
    model = nn.Sequential(nn.Linear(4, 5), nn.Sequential(nn.ReLU(), nn.Linear(5, 3, bias=False)))
    weight = model[0].weight
    assert send_back(model, "usf") == ["0", "1.1"]
    assert model[0].weight is weight
    assert list(model.state_dict()) == ["0.weight", "0.bias", "1.1.weight"]
    assert model(torch.randn(2, 4)).shape == (2, 3)


@pytest.mark.parametrize(
    ("model", "kind", "message"),
    [(nn.ReLU(), "fa", "ReLU has no nn.Linear"), (nn.Linear(2, 2), "magic", "unknown rule 'magic'")],
)
def test_what_cannot_be_swapped_is_refused(model, kind, message):
    assert kind not in KINDS or kind == "fa"
    with pytest.raises(ValueError, match=message):
        send_back(model, kind)


def test_inside_a_module_dfa_starts_from_what_backpropagation_brings_to_its_end():
    """Modules [2, 1]: the third layer is the last module; its delta goes down through its own weights."""
    net = make("modular", modules=[2, 1])
    got = learn(net)
    h, error = forward(net)
    inner, last = (f.projection.matrix for f in net.rule.feedbacks)
    assert inner.shape[0] == 6  # the width of the first module's last activation
    delta = error @ last[:, :5] / 5**0.5 * (1 - h[3] ** 2)
    torch.testing.assert_close(got["layers.2.weight"], delta.T @ h[2])
    end = delta @ net.layers[2].weight.detach()
    torch.testing.assert_close(got["layers.1.weight"], (end * (1 - h[2] ** 2)).T @ h[1])
    first = end @ inner[:, :7] / 7**0.5 * (1 - h[1] ** 2)
    torch.testing.assert_close(got["layers.0.weight"], first.T @ h[0])


@pytest.mark.parametrize("modules", [[1, 2], [1, 1, 1], [2, 1], [3]])
def test_every_layer_learns_whatever_the_modules(modules):
    got = learn(make("modular", modules=modules))
    assert all(got[f"layers.{i}.weight"].abs().sum() > 0 for i in range(3))


def test_one_module_is_dfa():
    got, expected = learn(make("modular", modules=[3])), learn(make("dfa"))
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient)


def test_modules_that_do_not_fit_the_network_are_named():
    net = make("modular", modules=[2, 1])
    net.layers = net.layers[:2]
    net.head = nn.Linear(6, 3).double()
    with pytest.raises(RuntimeError, match="have 3 feedback points, but the network called 2"):
        net(X)


def test_target_projection_sends_the_targets_instead_of_the_error():
    net = make("drtp")
    targets = torch.rand(2, 5, 3, dtype=torch.float64)
    net.rule.feedback.targets = targets
    got = learn(net)
    h, _ = forward(net)
    signal = -targets.reshape(-1, 3) / 10 @ net.rule.feedback.projection.matrix[:, :6] / 6**0.5
    torch.testing.assert_close(got["layers.1.weight"], (signal * (1 - h[2] ** 2)).T @ h[1])


def test_target_projection_without_targets_says_so():
    with pytest.raises(ValueError, match=r"drtp needs rule.feedback.targets of shape \(2, 5, 3\)"):
        learn(make("drtp"))
    with pytest.raises(ValueError, match="drtp has one matrix for all layers"):
        make_rule("drtp", 3, [4, 4], shared=False)
    with pytest.raises(ValueError, match="drtp sends the targets of all outputs"):
        make_rule("drtp", 3, [4, 4], reach=[None, slice(0, 1)])


def test_hybrid_has_the_gradients_of_both():
    net, exact, direct = make("hdfa"), make("bp"), make("dfa")
    for expected, switch in ((learn(direct), False), (learn(exact), True)):
        net.rule.exact = switch
        for name, gradient in learn(net).items():
            torch.testing.assert_close(gradient, expected[name])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("sends", [False, True])
def test_a_joint_input_is_one_of_parts(kind, exact, sends):
    """[x, shared], shared of all samples of a ray, against their concatenation: values, gradients, signal and R."""
    found = []
    for joint in (False, True):
        torch.manual_seed(1)
        layer = SequentialLinear(nn.Linear(7, 5), kind).double().train()
        layer.exact = exact
        x = torch.randn(6, 4, 5, dtype=torch.float64, requires_grad=sends)
        shared = torch.randn(6, 1, 2, dtype=torch.float64)
        torch.manual_seed(2)
        y = layer.joint(x, shared) if joint else layer(torch.cat([x, shared.expand(6, 4, 2)], dim=-1))
        y.square().sum().backward()
        gradients = [layer.weight.grad, layer.bias.grad, x.grad]
        found.append([y.detach(), *gradients, *([layer.back.detach(), layer.back.grad] if kind in OWN else [])])
    for a, b in zip(*found, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b)
