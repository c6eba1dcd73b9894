"""Learning rules against explicit computations in float64."""

import itertools

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nerf_dfa.learning import RULES, make_rule
from nerf_dfa.learning.feedback import Feedback


class Net(nn.Module):
    """A stack of layers with a feedback point after each activation."""

    def __init__(self, widths, outputs, rule, activation=torch.tanh):
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


def gradients(net, x, loss=lambda y: (y.sin() ** 2).sum()):
    net.zero_grad()
    loss(net(x)).backward()
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


@pytest.fixture
def x():
    return torch.randn(5, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def make_net(rule, widths=(4, 7, 6, 5), outputs=3, **options):
    torch.manual_seed(0)
    return Net(list(widths), outputs, rule, **options).double()


def test_dfa_gradients_equal_the_equations_written_out(x):
    net = make_net("dfa")
    got = gradients(net, x)

    flat = x.reshape(-1, 4)
    activations = [flat]
    with torch.no_grad():
        for layer in net.layers:
            activations.append(torch.tanh(activations[-1] @ layer.weight.T + layer.bias))
        y = activations[-1] @ net.head.weight.T + net.head.bias
        error = 2 * y.sin() * y.cos()  # the derivative of sum sin(y)^2
        expected = {"head.weight": error.T @ activations[-1], "head.bias": error.sum(0)}
        matrix = net.rule.feedback.projection.matrix
        for i, h in enumerate(activations[1:]):
            signal = error @ matrix[:, : h.shape[1]] / h.shape[1] ** 0.5
            delta = signal * (1 - h**2)
            expected[f"layers.{i}.weight"] = delta.T @ activations[i]
            expected[f"layers.{i}.bias"] = delta.sum(0)
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=1e-10, atol=1e-12)


class TrueJacobian(Feedback):
    """Feedback of a linear network: the product of the weights above each layer, which is dy/dh_i."""

    def __init__(self, net):
        super().__init__(net.head.out_features)
        self.net = [net]  # in a list, so that the network does not own itself

    def project(self, error, layer, width):
        net = self.net[0]
        signal = error @ net.head.weight
        for above in reversed(net.layers[layer + 1 :]):
            signal = signal @ above.weight
        return signal


def test_dfa_with_the_true_jacobian_of_a_linear_network_is_backpropagation(x):
    bp, dfa = (make_net(rule, activation=lambda a: a) for rule in ("bp", "dfa"))
    dfa.rule.feedback = TrueJacobian(dfa)
    expected, got = gradients(bp, x), gradients(dfa, x)
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=1e-10, atol=1e-12)


def test_bp_equals_autograd_without_any_rule(x):
    net = make_net("bp")
    plain = nn.Sequential(*(m for layer in net.layers for m in (layer, nn.Tanh())), net.head)
    expected = torch.autograd.grad((plain(x).sin() ** 2).sum(), list(plain.parameters()))
    for got, value in zip(gradients(net, x).values(), expected, strict=True):
        torch.testing.assert_close(got, value)


def test_shallow_trains_the_top_layer_alone(x):
    assert gradients(make_net("shallow"), x).keys() == {"head.weight", "head.bias"}


@pytest.mark.parametrize("rule", sorted(set(RULES) - {"drtp", "shallow"}))
def test_every_parameter_gets_a_gradient(rule, x):
    net = make_net(rule)
    got = gradients(net, x)
    assert got.keys() == dict(net.named_parameters()).keys()
    assert all(g.abs().sum() > 0 for g in got.values())


# drtp needs targets, brsf draws anew in every pass.
@pytest.mark.parametrize("rule", sorted(set(RULES) - {"drtp"}))
def test_the_top_layer_has_its_exact_gradient(rule, x):
    got, exact = gradients(make_net(rule), x), gradients(make_net("bp"), x)
    torch.testing.assert_close(got["head.weight"], exact["head.weight"])


# But rules whose passes change the way back, or draw it: a chunk has another one than the whole.
@pytest.mark.parametrize("rule", sorted(set(RULES) - {"drtp", "brsf", "fdfa", "mdfa", "mirror", "kp_mirror"}))
def test_chunked_forward_passes_accumulate_to_the_whole_batch(rule, x):
    net = make_net(rule)
    whole = gradients(net, x)
    chunked = gradients(net, x, loss=lambda _: sum((net(part).sin() ** 2).sum() for part in x.split(2)))
    for name, value in whole.items():
        torch.testing.assert_close(chunked[name], value)


@pytest.mark.parametrize("rule", list(RULES))
def test_the_forward_pass_is_the_same_under_every_rule(rule, x):
    net = make_net(rule)
    with torch.no_grad():
        expected = make_net("bp")(x)
        torch.testing.assert_close(net(x), expected, rtol=0, atol=0)
    torch.testing.assert_close(net(x), expected, rtol=0, atol=0)


def test_dfa_spares_the_products_with_the_weights():
    """Backpropagation takes 6 units, DFA 4 and a little for the projection (REFERENCE: arithmetic of a step)."""

    def flops(rule):
        net = Net([256] * 9, 4, rule, torch.relu)
        x = torch.randn(64, 256)
        with FlopCounterMode(display=False) as counter:
            net(x).square().mean().backward()
        return counter.get_total_flops()

    # 8 layers of 256 with 64 samples: BP does not need dX of the first layer.
    ratio = flops("dfa") / flops("bp")
    assert ratio < 0.70


def test_the_feedback_matrix_is_saved_and_shared():
    net = make_net("dfa", widths=(4, 7, 7, 7))
    assert net.state_dict()["rule.feedback.projection.matrix"].shape == (3, 7)
    other = make_net("dfa", widths=(4, 7, 7, 7))
    torch.manual_seed(99)
    other.rule = make_rule("dfa", 3, [7]).double()
    other.load_state_dict(net.state_dict())
    assert torch.equal(other.rule.feedback.projection.matrix, net.rule.feedback.projection.matrix)


def test_all_layers_share_one_projection(x):
    net = make_net("dfa", widths=(4, 7, 7, 5))
    calls = []
    message = net.rule.feedback.message
    net.rule.feedback.message = lambda e: calls.append(e.shape) or message(e)
    gradients(net, x)
    assert calls == [(*x.shape[:-1], 3)]


def test_an_output_of_another_width_than_the_feedbacks_is_refused():
    rule = make_rule("dfa", 3, [5])
    tape = rule.tape()
    tape.hidden(torch.zeros(2, 5, requires_grad=True))
    with pytest.raises(ValueError, match="the output is 4 wide, but the feedback was made for an error of 3"):
        tape.output(torch.zeros(2, 4))


def test_normalised_signals_have_the_same_norm_whatever_the_width():
    feedback = make_rule("dfa", 3, [4096, 1024]).feedback
    message = feedback.message(torch.ones(1, 3))
    wide, narrow = feedback.project(message, 0, 4096), feedback.project(message, 1, 1024)
    assert wide.norm().item() == pytest.approx(narrow.norm().item(), rel=0.1)


def test_autocast_gives_the_hidden_layers_bfloat16_signals_and_nearly_the_same_gradients():
    torch.manual_seed(0)
    net = Net([16, 64, 64], 3, "dfa", torch.relu)
    x = torch.randn(128, 16)
    exact = gradients(net, x, lambda y: y.square().mean())
    net.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        y = net(x)
    y.float().square().mean().backward()
    for name, p in net.named_parameters():
        assert p.grad.dtype == torch.float32
        assert torch.nn.functional.cosine_similarity(p.grad.flatten(), exact[name].flatten(), dim=0) > 0.995


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda tape, h, y: (tape.hidden(h), tape.output(y), tape.output(y)), "called twice"),
        (lambda tape, h, y: (tape.hidden(h), tape.output(y), tape.hidden(h)), "point 1 comes after"),
        (lambda tape, h, y: tape.output(y), "no feedback point"),
        (lambda tape, h, y: (tape.hidden(h[:2]), tape.output(y)), "point 0 has batch dimensions"),
        (lambda tape, h, y: tape.hidden(h.long()), "point 0 is torch.int64"),
    ],
)
def test_misuse_of_a_tape_is_named(use, message):
    tape = make_rule("dfa", 2, [4]).tape()
    with pytest.raises((RuntimeError, ValueError, TypeError), match=message):
        use(tape, torch.randn(3, 4, requires_grad=True), torch.randn(3, 2, requires_grad=True))


def test_unknown_rules_and_networks_without_hidden_layers_are_refused():
    with pytest.raises(ValueError, match="unknown learning rule 'magic'; there are bp, shallow, dfa, dkp"):
        make_rule("magic", 2, [4])
    with pytest.raises(ValueError, match="needs at least one hidden layer"):
        make_rule("dfa", 2, [])


def test_a_feedback_point_wider_than_the_matrix_is_named():
    tape = make_rule("dfa", 2, [4]).tape()
    h, y = torch.randn(3, 6, requires_grad=True), torch.randn(3, 2, requires_grad=True)
    tape.hidden(h)
    with pytest.raises(ValueError, match="feedback point 0 is 6 wide"):
        tape.output(y).sum().backward()


@pytest.mark.parametrize("options", [{}, {"shared": False}, {"normalisation": "none"}])
@pytest.mark.parametrize("rule", ["dfa", "dkp", "fdfa"])
def test_points_hear_the_outputs_that_they_lead_to(rule, options):
    """A trunk of two layers, one output off it, two off a branch: the branch hears its own two alone."""
    if rule != "dfa" and options:
        pytest.skip("dfa alone has these options")
    torch.manual_seed(0)
    made = make_rule(rule, 3, [8, 8, 6], [None, None, slice(0, 2)], **options)
    if rule == "fdfa":
        made.feedback.due = 99
    hidden = [torch.randn(5, width, requires_grad=True) for width in (8, 8, 6)]
    tape = made.tape()
    for h in hidden:
        tape.hidden(h)
    error = torch.randn(5, 3)
    tape.output(torch.zeros(5, 3, requires_grad=True)).backward(error)
    own = error * torch.tensor([1.0, 1.0, 0.0])
    for layer, (h, e) in enumerate(zip(hidden, (error, error, own), strict=True)):
        torch.testing.assert_close(h.grad, made.feedback.project(made.feedback.message(e), layer, h.shape[1]))
    if rule == "dkp":
        torch.testing.assert_close(made.feedback.matrices[2].grad, own.T @ hidden[2].detach())


def test_reach_is_of_every_point():
    with pytest.raises(ValueError, match="reach is of 1 feedback points, and there are 2"):
        make_rule("dfa", 3, [8, 8], [None])
