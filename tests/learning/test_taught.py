"""mdfa: feedback fitted to what mirrors send back, against torch.linalg.lstsq and the exact gradients."""

import itertools

import pytest
import torch
from torch import nn

from nerf_dfa.learning import make_rule
from nerf_dfa.learning.sequential import SequentialLinear


class Net(nn.Module):
    def __init__(self, rule="mdfa", widths=(5, 16, 12), outputs=3, activation=torch.relu, reach=(), **options):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.head = nn.Linear(widths[-1], outputs)
        self.activation = activation
        self.rule = make_rule(rule, outputs, widths[1:], reach, **options).prepare(self)

    def forward(self, x):
        tape = self.rule.tape()
        for layer in self.layers:
            x = tape.hidden(self.activation(layer(x)))
        return tape.output(self.head(x))


def true_mirrors(net):
    for layer in net.modules():
        if isinstance(layer, SequentialLinear):
            layer.back.data = layer.weight.detach().clone()


def gradients(net, x, error):
    net.zero_grad()
    net(x).backward(error)
    return {name: p.grad.clone() for name, p in net.named_parameters()}


def signals(net, x, error):
    """The exact gradient at every feedback point."""
    with net.rule.collecting() as tapes:
        y = net(x)
    return torch.autograd.grad(y, tapes[0].activations, error)


@pytest.fixture
def batches():
    torch.manual_seed(3)
    return [(torch.randn(64, 5), torch.randn(64, 3) * torch.tensor([1.0, 0.1, 3.0])) for _ in range(3)]


def test_the_matrices_are_the_least_squares_of_the_lessons(batches):
    """Three lessons that weigh 1, 1/2 and 0.4: together 0.3, 0.3 and 0.4."""
    net = Net(every=1, average=0.4)
    true_mirrors(net)
    for x, error in batches:
        gradients(net, x, error)
    sizes = [(weight**0.5 / error.norm()) for weight, (_, error) in zip((0.3, 0.3, 0.4), batches, strict=True)]
    errors = torch.cat([error * size for size, (_, error) in zip(sizes, batches, strict=True)]).double()
    for layer, matrix in enumerate(net.rule.feedback.matrices):
        sent = torch.cat([signals(net, x, e)[layer] * size for size, (x, e) in zip(sizes, batches, strict=True)])
        best = torch.linalg.lstsq(errors, sent.double()).solution
        torch.testing.assert_close(matrix.double(), best, rtol=1e-3, atol=1e-3 * best.abs().max().item())


def test_a_lesson_learns_by_the_mirrors_and_other_passes_by_the_matrices(batches):
    (x, error), (x2, error2), _ = batches
    net, exact = Net(every=2), Net("bp")
    exact.load_state_dict(net.state_dict(), strict=False)
    true_mirrors(net)
    lesson, direct = gradients(net, x, error), gradients(net, x2, error2)
    for name, gradient in gradients(exact, x, error).items():
        torch.testing.assert_close(lesson[name], gradient)
    with torch.no_grad():
        h = torch.relu(net.layers[0](x2))
        h2 = torch.relu(net.layers[1](h))
        first, second = net.rule.feedback.matrices
        torch.testing.assert_close(direct["layers.0.weight"], ((error2 @ first) * (h > 0)).T @ x2)
        torch.testing.assert_close(direct["layers.1.weight"], ((error2 @ second) * (h2 > 0)).T @ h)
        torch.testing.assert_close(direct["head.weight"], error2.T @ h2)


def test_a_linear_network_gets_its_exact_gradient(batches):
    """Every row has one Jacobian there; the mirrors learn by themselves what the weights are."""
    net = Net(activation=nn.Identity(), first=80, every=1000)
    exact = Net("bp", activation=nn.Identity())
    exact.load_state_dict(net.state_dict(), strict=False)
    for _ in range(80):
        gradients(net, *batches[0])
    passes = net.rule.feedback.estimates
    got, expected = gradients(net, *batches[1]), gradients(exact, *batches[1])
    assert net.rule.feedback.estimates == passes
    for name, gradient in expected.items():
        assert ((got[name] - gradient).norm() / gradient.norm()).item() < 1e-3


def test_a_layer_hears_what_it_leads_to(batches):
    net = Net(reach=[None, slice(0, 2)])
    for x, error in batches:
        gradients(net, x, error)
    first, second = net.rule.feedback.matrices
    assert first[2].abs().sum() > 0
    assert second[2].abs().sum() == 0
    assert second[:2].abs().sum() > 0


def test_no_error_and_one_that_is_not_finite_end_nothing(batches):
    net = Net()
    x = batches[0][0]
    gradients(net, x, torch.zeros(64, 3))
    assert all(not matrix.any() for matrix in net.rule.feedback.matrices)
    gradients(net, x, torch.full((64, 3), torch.nan))


def test_a_run_goes_on_where_it_stopped(batches):
    whole, first = Net(every=2), Net(every=2)
    first.load_state_dict(whole.state_dict())
    steps = [*batches, *batches]
    for number, (x, error) in enumerate(steps):
        if number == 3:
            second = Net(every=2)
            second.load_state_dict(first.state_dict())
            first = second
        torch.manual_seed(number)
        a = gradients(whole, x, error)
        torch.manual_seed(number)
        b = gradients(first, x, error)
        assert all(torch.equal(a[name], b[name]) for name in a)
    assert whole.rule.feedback.estimates == 3


def given(error, output):
    """e x (1, sigmoid(y)), one number after the other."""
    terms = [torch.ones(len(output), 1), *(1 / (1 + (-output[:, [j]]).exp()) for j in range(output.shape[1]))]
    return torch.stack([error[:, k] * term[:, 0] for k in range(error.shape[1]) for term in terms], dim=1)


def test_conditional_feedback_is_the_least_squares_given_the_output(batches):
    """One lesson; then a pass whose layers hear the error by matrices that depend on the output."""
    (x, error), (x2, error2) = [(x.double(), error.double()) for x, error in batches[:2]]
    net = Net(every=2, conditional=True).double()
    true_mirrors(net)
    lesson, direct = gradients(net, x, error), gradients(net, x2, error2)
    assert lesson.keys() == direct.keys()
    heard = given(error, net(x).detach())
    for matrix, sent in zip(net.rule.feedback.matrices, signals(net, x, error), strict=True):
        ridge = 1e-4 * torch.diag(heard.square().sum(0))
        best = torch.linalg.solve(heard.T @ heard + ridge, heard.T @ sent)
        torch.testing.assert_close(matrix, best, rtol=1e-6, atol=1e-6 * best.abs().max().item())
    with torch.no_grad():
        h = torch.relu(net.layers[0](x2))
        signal = given(error2, net(x2)) @ net.rule.feedback.matrices[0]
        torch.testing.assert_close(direct["layers.0.weight"], (signal * (h > 0)).T @ x2)


def test_conditional_feedback_tells_more_of_the_gradient():
    """Of a network whose units are saturated or not by what its outputs are."""
    torch.manual_seed(0)
    plain, conditional = (Net(every=1, activation=torch.tanh, conditional=given) for given in (False, True))
    x, left = torch.randn(4000, 5) * 2, []
    for net in (plain, conditional):
        net.layers.load_state_dict(plain.layers.state_dict())
        net.head.load_state_dict(plain.head.state_dict())
        true_mirrors(net)
        torch.manual_seed(1)
        error = torch.randn(4000, 3)
        gradients(net, x[:3000], error[:3000])
        feedback, (sent, _) = net.rule.feedback, signals(net, x[3000:], error[3000:])
        (message,) = feedback.message_to([0], error[3000:], net(x[3000:]).detach())
        left.append(((feedback.project(message, 0, 16) - sent).square().sum() / sent.square().sum()).item())
    assert left[1] < 0.9 * left[0]


def test_conditional_feedback_hears_what_its_layer_leads_to(batches):
    net = Net(reach=[None, slice(1, 3)], conditional=True)
    for x, error in batches:
        gradients(net, x, error)
    first, second = net.rule.feedback.matrices
    assert first[:4].abs().sum() > 0
    assert not second[:4].any()
    assert second[4:].abs().sum() > 0


def test_precision_follows_the_network(batches):
    """float64: the fit is lstsq's but for the ridge. Mixed precision: the matrices stay in float32."""
    net = Net().double()
    true_mirrors(net)
    x, error = (batch.double() for batch in batches[0])
    gradients(net, x, error)
    for matrix, signal in zip(net.rule.feedback.matrices, signals(net, x, error), strict=True):
        best = torch.linalg.lstsq(error, signal).solution
        assert matrix.dtype == torch.float64
        assert ((matrix - best).norm() / best.norm()).item() < 1e-3
    net, (x, error) = Net(), batches[0]
    with torch.autocast("cpu", torch.bfloat16):
        y = net(x)
    y.backward(error.to(y.dtype))
    assert all(matrix.dtype == torch.float32 and matrix.isfinite().all() for matrix in net.rule.feedback.matrices)


def test_too_wide_an_error_is_refused():
    with pytest.raises(ValueError, match="at most 1024 outputs, and there are 1025"):
        make_rule("mdfa", 1025, [4])
    make_rule("mdfa", 31, [4], conditional=True)
    with pytest.raises(ValueError, match="at most 31 outputs, and there are 32"):
        make_rule("mdfa", 32, [4], conditional=True)
