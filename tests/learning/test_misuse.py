"""What users do to networks that learn by a rule: it is right, or it says what is wrong."""

import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torch.utils.checkpoint import checkpoint

from nerf_dfa.learning import make_rule
from nerf_dfa.learning.alignment import measure_alignment
from nerf_dfa.learning.convert import convert, revert
from nerf_dfa.learning.hybrid import HybridOptimizer
from nerf_dfa.learning.selected import Selection, selected
from nerf_dfa.learning.sequential import SequentialLinear
from nerf_dfa.learning.twopass import two_pass

DOUBLE = torch.float64


def network():
    layers = nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 2)
    return nn.Sequential(*layers).to(DOUBLE)


@pytest.fixture
def x():
    torch.manual_seed(0)
    return torch.randn(8, 4, dtype=DOUBLE)


def gradients(model):
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


def test_a_compiled_network_under_fdfa_says_that_it_cannot_probe(x):
    model = network()
    convert(model, "fdfa")
    with pytest.raises(RuntimeError, match=r"torch\.compile loses them"):
        torch.compile(model, backend="eager")(x)
    torch._dynamo.reset()


class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(2)]).to(DOUBLE)
        self.head, self.reentrant = nn.Linear(4, 2).to(DOUBLE), reentrant

    def forward(self, x):
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=self.reentrant)
        return self.head(x)


@pytest.mark.parametrize("rule", ["dfa", "shallow", "mdfa"])
def test_a_reentrant_checkpoint_within_is_refused(rule, x):
    with pytest.raises(ValueError, match="use_reentrant=False"):
        convert(Checkpointed(True), rule, ["blocks.0", "blocks.1"], example=x.requires_grad_())


def test_a_checkpoint_that_is_not_reentrant_is_not(x):
    model = Checkpointed(False)
    convert(model, "shallow", ["blocks.0", "blocks.1"], example=x)
    model(x).square().sum().backward()
    assert model.blocks[0][0].weight.grad is None
    assert model.head.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("rule", ["fa", "kp", "mirror"])
def test_a_layer_in_two_places_is_replaced_in_both(rule, x):
    shared = nn.Linear(6, 6)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), shared, nn.Tanh(), shared, nn.Linear(6, 2)).to(DOUBLE)
    convert(model, rule)
    assert isinstance(model[2], SequentialLinear)
    assert model[2] is model[4]
    revert(model)
    assert model[2] is model[4] is shared


def test_layers_with_one_weight_have_one_backward_matrix_that_learns_as_it_does(x):
    model = network()
    model[2], model[4] = nn.Linear(6, 6).to(DOUBLE), nn.Linear(6, 6).to(DOUBLE)
    model[4].weight = model[2].weight
    convert(model, "kp")
    model(x).square().sum().backward()
    assert model[2].back is model[4].back
    torch.testing.assert_close(model[2].back.grad, model[2].weight.grad)


@pytest.mark.parametrize("rule", ["fa", "kp_mirror", "mdfa", "fdfa"])
def test_hooks_pruning_and_mode_survive(rule, x):
    model, heard = network().eval(), []
    prune.l1_unstructured(model[2], "weight", amount=0.5)
    model[0].register_forward_hook(lambda module, args, y: heard.append(y))
    expected = model(x)
    convert(model, rule)
    assert not any(module.training for module in model)
    heard.clear()
    torch.testing.assert_close(model.train()(x), expected)
    assert heard
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = model[2].weight_orig.detach().clone()
    for _ in range(2):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
    assert not torch.equal(model[2].weight_orig, before)
    now = model(x)
    revert(model)
    torch.testing.assert_close(model(x), now)


def test_two_passes_of_an_exact_step_are_exact(x):
    model = network()
    convert(model, "hdfa")
    optimizer = HybridOptimizer(model, 0.1, probability=1.0)
    assert optimizer.exact
    two_pass(model.rule, lambda: model(x), lambda y: y.square().sum())
    found = gradients(model)
    model.zero_grad()
    model(x).square().sum().backward()
    torch.testing.assert_close(found, gradients(model))


def test_two_passes_reach_all_that_the_loss_reads(x):
    model, scale = network(), nn.Parameter(torch.tensor(2.0, dtype=DOUBLE))
    convert(model, "dfa")

    def loss(y):
        return (y * scale).square().sum() + model[0].weight.square().sum()

    two_pass(model.rule, lambda: model(x), loss)
    found = gradients(model) | {"scale": scale.grad.clone()}
    model.zero_grad()
    scale.grad = None
    loss(model(x)).backward()
    torch.testing.assert_close(found, gradients(model) | {"scale": scale.grad})


@pytest.mark.parametrize("after", [torch.sigmoid_, lambda y: y[:2].T, lambda y: y + 0])
def test_two_passes_refuse_what_comes_after_the_output(after, x):
    model = network()
    convert(model, "dfa")
    with pytest.raises(ValueError, match="nothing later"):
        two_pass(model.rule, lambda: after(model(x[:2])), lambda y: y.sum())


def test_two_passes_with_frozen_layers_below(x):
    model = network()
    model[0].requires_grad_(False)
    convert(model, "dfa")
    two_pass(model.rule, lambda: model(x), lambda y: y.square().sum())
    found = gradients(model)
    model.zero_grad()
    model(x).square().sum().backward()
    torch.testing.assert_close(found, gradients(model))


def test_selected_takes_rows_only(x):
    model = network()
    with pytest.raises(ValueError, match=r"as many rows \(n, c\) of outputs, and has \(8, 4\), \(2, 4, 2\)"):
        selected(lambda rows: model(rows.view(2, 4, 4)), Selection(1.0), x)


def test_selected_sends_nothing_back_to_its_inputs(x):
    model, below = network(), nn.Linear(4, 4).to(DOUBLE)
    selected(model, Selection(1.0), below(x)).square().sum().backward()
    assert below.weight.grad is None
    assert model[0].weight.grad is not None


@pytest.mark.parametrize("rule", ["fa", "usf", "kp", "kp_mirror", "mdfa"])
def test_a_rule_that_replaces_layers_has_to_be_told_which(rule):
    with pytest.raises(RuntimeError, match="prepare"):
        make_rule(rule, 2, [6, 6]).tape()


@pytest.mark.parametrize("part", [slice(0, 4, 2), slice(3, 0, -1), slice(6, 9), slice(2, 2)])
def test_reach_is_of_outputs_that_there_are(part):
    with pytest.raises(ValueError, match="expected a slice of at least one of 4 outputs"):
        make_rule("dfa", 4, [6], [part])


def test_a_lesson_without_an_error_teaches_nothing(x):
    model = network()
    convert(model, "mdfa")
    model(x[:0]).sum().backward()
    before = [b.clone() for b in model.rule.feedback.matrices]
    assert all(b.abs().sum() > 0 for b in before)


@pytest.mark.parametrize("rule", ["brsf", "mirror", "kp_mirror"])
def test_alignment_with_dropout_behind_layers_that_draw(rule, x):
    layers = nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Dropout(), nn.Linear(6, 2)
    model = nn.Sequential(*layers).to(DOUBLE)
    convert(model, rule)
    found = measure_alignment(model, lambda: model(x).square().sum())
    assert found.weights
