"""Feedback estimated by forward perturbation, against autograd's Jacobians."""

import itertools

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from torch import nn

from nerf_dfa.learning import make_rule
from nerf_dfa.learning.probing import ProbedFeedback, shares
from nerf_dfa.learning.signs import random_signs


class Net(nn.Module):
    def __init__(self, widths=(5, 16, 12), outputs=3, prepare=True, **options):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.head = nn.Linear(widths[-1], outputs)
        self.rule = make_rule("fdfa", outputs, widths[1:], **options)
        if prepare:
            self.rule.prepare(self)

    def forward(self, x):
        tape = self.rule.tape()
        for layer in self.layers:
            x = tape.hidden(torch.relu(layer(x)))
        return tape.output(self.head(x))


class Linears(Net):
    def forward(self, x):
        tape = self.rule.tape()
        for layer in self.layers:
            x = tape.hidden(layer(x))
        return tape.output(self.head(x))


def jacobians(net, x):
    """dy/dh_i of every sample: a list of (n, c, width_i)."""
    with net.rule.collecting() as tapes:
        y = net(x)
    return [
        torch.stack([torch.autograd.grad(y[:, k].sum(), h, retain_graph=True)[0] for k in range(y.shape[1])], dim=1)
        for h in tapes[0].activations
    ]


@pytest.mark.parametrize("prepare", [True, False])
def test_the_estimate_converges_to_the_mean_jacobian_weighted_by_the_error(prepare):
    torch.manual_seed(0)
    net = Net(average=0.02, prepare=prepare)
    x = torch.randn(8192, 5)
    error = torch.randn(8192, 3)
    for _ in range(200):
        net(x).backward(error)
    weights = error.abs() / error.abs().sum(0)
    for matrix, jacobian in zip(net.rule.feedback.matrices, jacobians(net, x), strict=True):
        expected = torch.einsum("nc,ncw->cw", weights, jacobian)
        assert ((matrix - expected).norm() / expected.norm()).item() < 0.06


def test_one_observation_written_out():
    rows, c, widths, average = 6, 2, (3, 2), 0.3
    feedback = ProbedFeedback(c, widths, average=average)
    matrices = [torch.zeros(c, width) for width in widths]  # the random start is forgotten
    for number in range(1, 6):
        error, tangent, u = torch.randn(rows, c), torch.randn(rows, c), random_signs((rows, 3), torch.empty(0))
        r = [random_signs((rows, 1), torch.empty(0)) for _ in widths]
        s = [torch.tensor(0.5), torch.tensor(2.0)]
        moved = [matrix.clone() for matrix in matrices]
        for k in range(c):
            weights = [error[n, k].abs() / error[:, k].abs().sum() for n in range(rows)]
            step = 1 / (1 + (sum(widths) - 1) * sum(w**2 for w in weights))
            step = min(step, max(average, 1 / number))
            for n in range(rows):
                known = sum(
                    matrices[layer][k, i] * s[layer] * r[layer][n, 0] * u[n, i]
                    for layer, width in enumerate(widths)
                    for i in range(width)
                )
                for layer, width in enumerate(widths):
                    for i in range(width):
                        change = weights[n] * (tangent[n, k] - known) * r[layer][n, 0] * u[n, i]
                        moved[layer][k, i] += step * change / s[layer]
        matrices = moved
        feedback.observe(error, tangent, r, s, u)
        for matrix, expected in zip(feedback.matrices, matrices, strict=True):
            torch.testing.assert_close(matrix, expected)


def test_where_all_samples_have_one_jacobian_the_estimate_becomes_exact():
    """A linear network: from few rows, fewer than there are units, and without any noise in the end."""
    torch.manual_seed(0)
    net = Linears().double()
    for _ in range(600):
        net(torch.randn(20, 5, dtype=torch.float64)).backward(torch.randn(20, 3, dtype=torch.float64))
    second, third = net.layers[1].weight, net.head.weight
    for matrix, expected in zip(net.rule.feedback.matrices, (third @ second, third), strict=True):
        torch.testing.assert_close(matrix, expected.detach(), rtol=1e-4, atol=1e-4)


def test_the_step_brings_the_estimate_nearest():
    """Of steps around the one it takes, none leaves a smaller error on average."""
    rows, width = 40, 24
    jacobian = torch.linspace(-1, 1, width)[None]

    def error_left(factor):
        generator, left = torch.Generator().manual_seed(0), 0.0
        for _ in range(300):
            signs = torch.randint(0, 2, (rows, width), generator=generator) * 2.0 - 1
            error = torch.rand(rows, 1, generator=generator) ** 4
            feedback = ProbedFeedback(1, [width], average=1.0)
            feedback.observe(error, signs @ jacobian.T, [torch.ones(rows, 1)], [torch.tensor(1.0)], signs)
            left += (factor * feedback.matrices[0] - jacobian).square().sum().item()
        return left

    assert error_left(1.0) < min(error_left(0.8), error_left(1.25))


def test_an_error_of_zero_weighs_all_samples_alike():
    assert shares(torch.zeros(4, 2)).tolist() == [[0.25, 0.25]] * 4
    assert shares(torch.tensor([[1.0, 0.0], [-3.0, 0.0]])).tolist() == [[0.25, 0.5], [0.75, 0.5]]


@pytest.mark.parametrize("prepare", [True, False])
def test_the_tangents_are_those_of_the_network(prepare, monkeypatch):
    """d = sum_i J_i u_i, sample by sample."""
    torch.manual_seed(0)
    net, x, seen = Net(prepare=prepare), torch.randn(7, 5), {}
    monkeypatch.setattr(net.rule.feedback, "observe", lambda *args: seen.update(args=args))
    net(x).sum().backward()
    _, tangent, flips, scales, signs = seen["args"]
    h = torch.relu(net.layers[0](x))
    for scale, layer in zip(scales, (h, torch.relu(net.layers[1](h))), strict=True):
        torch.testing.assert_close(scale, layer.square().mean().sqrt())
    assert all(flip.abs().eq(1).all() for flip in flips)
    parts = zip(flips, scales, (16, 12), strict=True)
    directions = [flip * scale * signs[:, :width] for flip, scale, width in parts]
    expected = sum(torch.einsum("ncw,nw->nc", j, u) for j, u in zip(jacobians(net, x), directions, strict=True))
    torch.testing.assert_close(tangent, expected)


@pytest.mark.parametrize("prepare", [True, False])
def test_a_probing_pass_also_learns(prepare):
    """The weights' gradients are DFA's with the matrices as they are after the probe."""
    torch.manual_seed(0)
    net, x = Net(prepare=prepare).double(), torch.randn(9, 5, dtype=torch.float64)
    (net(x).sin() ** 2).sum().backward()
    with torch.no_grad():
        h = torch.relu(net.layers[0](x))
        h2 = torch.relu(net.layers[1](h))
        y = net.head(h2)
        error = 2 * y.sin() * y.cos()
        first, second = net.rule.feedback.matrices
        torch.testing.assert_close(net.layers[0].weight.grad, ((error @ first) * (h > 0)).T @ x)
        torch.testing.assert_close(net.layers[1].weight.grad, ((error @ second) * (h2 > 0)).T @ h)
        torch.testing.assert_close(net.head.weight.grad, error.T @ h2)


def test_every_kth_pass_probes_and_the_count_is_saved():
    net, x = Net(every=3), torch.randn(4, 5)
    for _ in range(5):
        net(x).sum().backward()
    assert (net.rule.feedback.passes, net.rule.feedback.estimates) == (5, 2)
    other = Net(every=3)
    other.load_state_dict(net.state_dict())
    assert (other.rule.feedback.passes, other.rule.feedback.estimates) == (5, 2)
    assert all(map(torch.equal, other.rule.feedback.matrices, net.rule.feedback.matrices))


def test_layers_of_any_scale_are_estimated_alike():
    """The same function with its layers' activations scaled apart: one probe's relative errors stay what they were."""
    errors = {}
    for factor in (1.0, 100.0):
        torch.manual_seed(0)
        net, x = Net(), torch.randn(512, 5)
        with torch.no_grad():
            net.layers[0].weight.mul_(factor), net.layers[0].bias.mul_(factor), net.layers[1].weight.div_(factor)
            net.layers[1].weight.mul_(0.5), net.layers[1].bias.mul_(0.5), net.head.weight.mul_(2)
        net(x).backward(torch.ones(512, 3))
        pairs = zip(net.rule.feedback.matrices, jacobians(net, x), strict=True)
        errors[factor] = [((b - j.mean(0)).norm() / j.mean(0).norm()).item() for b, j in pairs]
    assert errors[100.0] == pytest.approx(errors[1.0], rel=1e-3)
    assert max(errors[1.0]) < 1


@pytest.mark.parametrize(
    ("options", "probing"),
    [
        ({"every": 4, "first": 3}, [1, 2, 3, 7, 11]),
        ({"every": 2, "first": 1}, [1, 3, 5, 7, 9, 11]),
        ({"every": 2, "growth": 0.5}, [1, 3, 5, 7, 10]),  # 2, 2, 2, 3, 5 after them
    ],
)
def test_which_passes_probe(options, probing):
    net, x, probed = Net(**options), torch.randn(4, 5), []
    for number in range(1, 12):
        before = net.rule.feedback.estimates
        if number == 9:  # goes on where the other stopped
            other = Net(**options)
            other.load_state_dict(net.state_dict())
            net = other
        net(x).sum().backward()
        if net.rule.feedback.estimates > before:
            probed.append(number)
    assert probed == probing


def test_without_gradients_nothing_is_counted():
    net = Net()
    with torch.no_grad():
        net(torch.randn(4, 5))
    assert net.rule.feedback.passes == 0


def test_several_passes_in_one_step_and_autocast():
    net, x = Net(), torch.randn(8, 5)
    with torch.autocast("cpu", torch.bfloat16):
        loss = sum(net(part).float().square().sum() for part in x.split(3))
    loss.backward()
    assert net.rule.feedback.estimates == 3
    assert all(p.grad.isfinite().all() for p in net.layers.parameters())


def test_a_pass_that_fails_leaves_no_forward_mode_open():
    class Broken(Net):
        def forward(self, x):
            tape = self.rule.tape()
            tape.hidden(torch.relu(self.layers[0](x)))
            raise RuntimeError("in the middle")

    net = Broken()
    with pytest.raises(RuntimeError, match="in the middle"):
        net(torch.randn(4, 5))
    Net()(torch.randn(4, 5)).sum().backward()
    with forward_ad.dual_level():
        pass


def test_random_signs_are_fair():
    like = torch.empty(0)
    signs = random_signs((100, 1001), like)
    assert signs.shape == (100, 1001)
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    assert abs(signs.mean().item()) < 5 / signs.numel() ** 0.5
    by_bit = signs.view(-1)[: 64 * 1500].view(-1, 64)  # every bit of a word, and every pair of them
    assert by_bit.mean(0).abs().max().item() < 5 / 1500**0.5
    products = by_bit.T @ by_bit / 1500 - torch.eye(64)
    assert products.abs().max().item() < 5 / 1500**0.5
    assert random_signs((3, 1), like.double()).dtype == torch.float64


def test_a_pass_without_rows_teaches_nothing():
    torch.manual_seed(0)
    net = Net()
    net(torch.randn(20, 5)).square().sum().backward()
    before = [matrix.clone() for matrix in net.rule.feedback.matrices]
    net(torch.zeros(0, 5)).sum().backward()
    assert all(torch.equal(a, b) for a, b in zip(before, net.rule.feedback.matrices, strict=True))
