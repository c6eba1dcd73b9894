"""Converted models against networks that were written for a rule, in float64."""

import copy
import pickle

import pytest
import torch
from torch import nn

from nerf_dfa.learning import make_rule
from nerf_dfa.learning.convert import convert, revert

X = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def mlp(inplace=False):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 8), nn.Tanh(), nn.Sequential(nn.Linear(8, 7), nn.ReLU(inplace)), nn.Linear(7, 3), nn.Softmax(-1)
    ).double()


class Residual(nn.Module):
    """A custom network: two named activations, a path past the second."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.ModuleDict({"lin": nn.Linear(4, 8), "act1": nn.SiLU()})
        self.inner, self.act2, self.head = nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 3)
        self.unused = nn.Linear(2, 2)

    def forward(self, x):
        h = self.encoder["act1"](self.encoder["lin"](x))
        return self.head(h + self.act2(self.inner(h)))


class WrittenForRule(nn.Module):
    """The same as a converted `network`, with a tape in the forward pass."""

    def __init__(self, network, rule):
        super().__init__()
        self.network, self.rule = network, rule

    def forward(self, x):
        tape, n = self.rule.tape(), self.network
        if isinstance(n, Residual):
            h = tape.hidden(n.encoder["act1"](n.encoder["lin"](x)))
            return tape.output(n.head(h + tape.hidden(n.act2(n.inner(h)))))
        h = tape.hidden(torch.tanh(n[0](x)))
        return torch.softmax(tape.output(n[3](tape.hidden(torch.relu(n[2][0](h))))), -1)


POINTS = {"mlp": None, "residual": ["encoder.act1", "act2"]}
NETWORKS = {"mlp": mlp, "residual": lambda: Residual().double()}


def gradients(net, loss=lambda net: net(X)[:, 0].sum()):
    net.zero_grad()
    loss(net).backward()
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", list(NETWORKS))
@pytest.mark.parametrize("rule", ["bp", "shallow", "dfa", "dkp", "modular"])
def test_gradients_equal_those_of_a_network_written_for_the_rule(rule, kind):
    net = NETWORKS[kind]()
    plain = copy.deepcopy(net)
    report = convert(net, rule, POINTS[kind], example=X[:2])
    written = WrittenForRule(plain, make_rule(rule, 3, list(report.points.values())).double())
    written.rule.load_state_dict(net.rule.state_dict())
    got = gradients(net)
    expected = {name.removeprefix("network."): g for name, g in gradients(written).items()}
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=1e-12, atol=0)


def test_the_report_says_what_learns_from_what():
    report = convert(mlp(), "dfa")
    assert report.points == {"1": 8, "2.1": 7}
    assert (report.output, report.output_width) == ("3", 3)  # below the Softmax
    assert report.learns == dict.fromkeys(["0.weight", "0.bias", "2.0.weight", "2.0.bias"], "feedback") | dict.fromkeys(
        ["3.weight", "3.bias"], "exact gradient"
    )
    assert "2.1: 7 wide" in str(report)
    report = convert(CONVOLUTIONAL(), "dfa", ["2", "4"], example=IMAGE)
    assert (report.points, report.learns["0.weight"]) == ({"2": 8, "4": 5}, "feedback")
    report = convert(Residual().double(), "dfa", ["act2"], example=(X,))
    learns = {"encoder.lin": "both", "inner": "feedback", "head": "exact gradient", "unused": "nothing"}
    assert report.learns == {f"{layer}.{kind}": how for layer, how in learns.items() for kind in ("weight", "bias")}
    assert set(convert(mlp(), "shallow").learns.values()) == {"nothing", "exact gradient"}
    assert "learning from nothing: unused.weight" in str(report)


@pytest.mark.parametrize("rule", ["shallow", "dfa"])
def test_the_report_agrees_with_the_gradients(rule):
    net = Residual().double()
    exact = gradients(net)
    learns = convert(net, rule, ["act2"], example={"x": X}).learns
    got = gradients(net)
    assert {name for name, how in learns.items() if how == "nothing"} == learns.keys() - got.keys()
    for name, value in got.items():
        assert torch.allclose(value, exact[name]) == (learns[name] == "exact gradient")


def test_rules_that_replace_linear_layers_need_no_points_and_are_undone():
    net = Residual().double()
    before, layer = copy.deepcopy(net.state_dict()), net.head
    exact = gradients(net)
    assert str(convert(net, "usf")) == "usf: a backward pass of its own in encoder.lin, inner, head, unused"
    got = gradients(net)
    torch.testing.assert_close(got["head.weight"], exact["head.weight"])
    assert not torch.allclose(got["inner.weight"], exact["inner.weight"])
    revert(net)
    assert net.head is layer
    assert net.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    torch.testing.assert_close(gradients(net), exact)


@pytest.mark.parametrize("rule", ["dkp", "kp", "fdfa"])
def test_parameters_keep_their_names_and_reverting_gives_the_model_back(rule):
    net = mlp()
    exact, names = gradients(net), list(net.state_dict())
    convert(net, rule)
    added = net.state_dict().keys() - set(names)
    assert all(name.startswith("rule.") or name.endswith(".back") for name in added)
    assert set(names) <= net.state_dict().keys()
    with pytest.raises(ValueError, match="Sequential has 'rule' already; revert"):
        convert(net, "dfa")
    revert(net)
    assert list(net.state_dict()) == names
    assert len(net) == 5
    torch.testing.assert_close(gradients(net), exact)
    with pytest.raises(ValueError, match="this Sequential is not converted"):
        revert(net)


@pytest.mark.parametrize("rule", ["bp", "dfa", "fa", "fdfa"])
def test_inference_is_the_same_and_makes_no_pass(rule):
    net = mlp()
    with torch.no_grad():
        expected = net(X)
        convert(net, rule)
        assert torch.equal(net(X), expected)
        assert torch.equal(net(X[0]), expected[0])
        with torch.inference_mode():
            assert torch.equal(net(X), expected)
    assert rule != "fdfa" or net.rule.feedback.passes == 0
    torch.testing.assert_close(net(X), expected, rtol=0, atol=0)
    assert rule != "fdfa" or net.rule.feedback.passes == 1


@pytest.mark.parametrize("rule", ["dfa", "dkp", "fdfa", "kp"])
def test_copies_and_pickles_learn_by_themselves(rule, monkeypatch):
    net = mlp()
    convert(net, rule)
    if rule == "fdfa":
        monkeypatch.setattr("nerf_dfa.learning.probing.random_signs", lambda shape, like: like.new_ones(shape))
    copies = copy.deepcopy(net), pickle.loads(pickle.dumps(net))
    expected = gradients(net)
    for other in copies:
        assert other.rule is not net.rule
        assert other._converted.points == net._converted.points
        torch.testing.assert_close(gradients(other), expected)
        revert(other)
        assert "feedback" not in " ".join(other.state_dict())
    with net.rule.unchanged():
        torch.testing.assert_close(gradients(net), expected)  # the copies' reverting has not touched it


def test_a_module_called_twice_is_two_points():
    act = nn.Tanh()
    net = nn.Sequential(nn.Linear(4, 8), act, nn.Linear(8, 6), act, nn.Linear(6, 2)).double()
    assert convert(net, "dkp").points == {"1": 8, "1:2": 6}
    assert [m.shape[1] for m in net.rule.feedback.matrices] == [8, 6]
    assert gradients(net).keys() == dict(net.named_parameters()).keys()


def test_activations_in_place_are_points_like_others():
    a, b = mlp(inplace=False), mlp(inplace=True)
    for net in (a, b):
        torch.manual_seed(3)
        convert(net)
    torch.testing.assert_close(gradients(a), gradients(b))


def test_chunks_accumulate_to_the_whole_batch():
    net = mlp()
    convert(net, "dkp")
    whole = gradients(net)
    parts = gradients(net, lambda net: sum(net(part)[:, 0].sum() for part in X.split(2)))
    torch.testing.assert_close(parts, whole)


def test_an_optimiser_over_the_models_parameters_learns():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))
    x = torch.rand(256, 2) * 2 - 1
    target = torch.sin(3 * x[:, :1]) * x[:, 1:]
    convert(net, "dfa")
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(300):
        optimiser.zero_grad()
        loss = (net(x) - target).square().mean()
        loss.backward()
        optimiser.step()
    assert loss < 0.1 * target.var()


def test_a_point_outside_a_pass_and_a_pass_that_failed_leave_nothing_behind():
    net = mlp()
    convert(net, "dfa")
    assert net[:3](X).requires_grad  # a part of the model by itself is not cut
    expected = gradients(net)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        net(torch.randn(2, 5, dtype=torch.float64))
    torch.testing.assert_close(gradients(net), expected)


class Odd(nn.Module):
    """Networks with something wrong at their points or output, chosen by `fault`."""

    def __init__(self, fault=""):
        super().__init__()
        self.fault, self.times = fault, 1
        self.lin, self.act, self.norm, self.head = nn.Linear(4, 4), nn.ReLU(), nn.LayerNorm(4), nn.Linear(4, 2)
        self.lstm, self.last = nn.LSTM(4, 4), nn.Identity()

    def forward(self, x):
        h = self.lin(x)
        for _ in range(self.times):
            h = self.act(h)
        if self.fault == "tuple":
            h = self.lstm(h)[0]
        if self.fault == "integers":
            self.last(h.argmax(-1, keepdim=True))
        if self.fault == "overwritten":
            h = self.norm(h).relu_()
        if self.fault == "no head":
            return self.last(h)
        if self.fault == "itself" and x.shape[0] > 1:
            h = h + self(x[:1]).sum()
        y = self.head(h)
        return {"tuple output": (y,), "narrow": y.sum(-1)}.get(self.fault, y)


def stack(*layers):
    return lambda: copy.deepcopy(nn.Sequential(*layers)).double()


IMAGE = torch.zeros(2, 1, 4, 4, dtype=torch.float64)
CONVOLUTIONAL = stack(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3))
REFUSED = [
    (mlp, dict(rule="magic"), "unknown learning rule 'magic'; there are bp, shallow, dfa"),
    (mlp, dict(colour="red"), "colour"),
    (mlp, dict(points=["1"], output="1"), "nor the output"),
    (mlp, dict(output="33"), "no module '33'; did you mean"),
    (Odd, dict(points=["atc"]), "Odd has no module 'atc'; did you mean 'act'"),
    (Odd, dict(points=[]), r"points = \[\] have to name at least one"),
    (Odd, dict(points=["act", "act"]), "none twice"),
    (Odd, dict(), r"Odd is no nn.Sequential: name its feedback points, for instance points=\['act'\]"),
    (Odd, dict(points=["act"]), "the widths in this Odd are not known before it runs; give example="),
    (Odd, dict(points=["act", "norm"], example=X), "feedback point 'norm' was not called before the model's output"),
    (Odd, dict(points=["act"], example=X, output="norm"), "without a call of the module that is the output"),
    ("tuple", dict(points=["lstm"], example=X), r"feedback point 'lstm' \(LSTM\) gives a tuple"),
    ("integers", dict(points=["act", "last"], example=X), r"point 'last' \(Identity\) gives torch.int64 \(6, 1\)"),
    ("overwritten", dict(points=["norm"], example=X), "feedback point 'norm' was overwritten by a later module"),
    ("no head", dict(points=["last"], example=X), "no weights between feedback point 'last' and the output"),
    ("itself", dict(points=["act"], example=X), "Odd was called inside its own forward pass"),
    ("tuple output", dict(points=["act"], example=X), r"the model's output \(Odd\) gives a tuple"),
    ("narrow", dict(points=["act"], example=X), r"'act' gives \(6, 4\) and the model's output \(6,\): a point has"),
    (stack(nn.Linear(4, 2), nn.Softmax(-1)), {}, "no non-linearity of torch.nn below its last layer"),
    (stack(nn.Linear(4, 2), nn.ReLU(), nn.Linear(3, 2)), {}, "does not run on the example; give example="),
    (CONVOLUTIONAL, dict(example=IMAGE), r"'1' gives \(2, 2, 2, 2\) and the output '5' \(2, 3\).*after they are flat"),
]


@pytest.mark.parametrize(("network", "options", "message"), REFUSED)
def test_what_cannot_be_converted_is_named_and_left_as_it_was(network, options, message):
    net = (Odd(network) if isinstance(network, str) else network()).double()
    with pytest.raises((ValueError, TypeError), match=message):
        convert(net, **options)
    assert not hasattr(net, "rule")
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert net.training


def test_a_pass_unlike_the_example_is_named():
    net = Odd().double()
    convert(net, "dfa", ["act"], example=X)
    net.times = 2
    with pytest.raises(ValueError, match="feedback point 'act:2' is out of order; a pass has act"):
        net(X)
    net.times = 0
    with pytest.raises(ValueError, match="feedback point 'act' was not called before the model's output"):
        net(X)
    net.times = 1
    assert net(X).requires_grad
