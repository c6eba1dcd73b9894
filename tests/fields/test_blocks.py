"""Layers in blocks: direct feedback to the highest of each, mirrored weights below it."""

import pytest
import torch

from nerf_dfa.fields import MLPField
from nerf_dfa.fields.encodings import positional_encoding


def make(depth, block, rule="dfa", **options):
    torch.manual_seed(0)
    return MLPField(
        depth,
        8,
        position_frequencies=2,
        use_viewdirs=False,
        learning_rule=rule,
        feedback_block=block,
        **options,
    ).double()


def learn(field):
    positions = torch.rand(5, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) - 0.5
    field.raw(positions, torch.zeros(1, 1, 3, dtype=torch.float64)).sin().sum().backward()
    return positions.flatten(0, 1)


@pytest.mark.parametrize(
    ("depth", "block", "direct"),
    [
        (4, 1, [0, 1, 2, 3]),
        (4, 2, [1, 3]),
        (5, 2, [0, 2, 4]),
        (4, 9, [3]),
        (7, 3, [0, 3, 6]),
    ],
)
def test_the_highest_of_each_block_has_direct_feedback_and_the_others_the_layer_aboves_delta(depth, block, direct):
    field = make(depth, block)
    positions = learn(field)
    with torch.no_grad():
        encoded = positional_encoding(positions, 2)
        inputs, outputs, x = [], [], encoded
        for i, layer in enumerate(field.pts_linears):
            inputs.append(x)
            outputs.append(torch.relu(x @ layer.weight.T + layer.bias))
            x = torch.cat([encoded, outputs[-1]], -1) if i in field.skips else outputs[-1]
        error = (x @ field.output_linear.weight.T + field.output_linear.bias).cos()
        feedback = error @ field.rule.feedback.projection.matrix[:, :8] / 8**0.5
        above = None
        for i in reversed(range(depth)):
            if i in direct:
                signal = feedback
            else:
                signal = above @ field.pts_linears[i + 1].back
                signal = signal[:, -8:]  # of the encoded position and the layer, where both are read, the layer's
            above = signal * (outputs[i] > 0)
            torch.testing.assert_close(field.pts_linears[i].weight.grad, above.T @ inputs[i])


@pytest.mark.parametrize("rule", ["dfa", "dkp", "fdfa"])
def test_in_one_block_mirrored_weights_come_to_bring_the_gradient(rule):
    """All but the highest layer's signal, which is the feedback's own, is that of its delta sent down exactly."""
    field = make(3, 3, rule)
    for _ in range(60):
        field.zero_grad()
        learn(field)
    got = [layer.weight.grad for layer in field.pts_linears]
    for layer in field.pts_linears[1:]:
        torch.testing.assert_close(layer.back, layer.weight.detach(), rtol=1e-6, atol=1e-6)
        layer.exact = True
    field.zero_grad()
    with field.rule.unchanged():
        learn(field)
    for layer, gradient in zip(field.pts_linears, got, strict=True):
        torch.testing.assert_close(layer.weight.grad, gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("block", [1, 2, 3])
def test_estimated_feedback_is_the_mean_jacobian_where_tangents_pass_layers_that_have_none(block):
    """Against autograd's Jacobians, for an error that is alike for all points."""
    field = make(4, block, "fdfa", rule_options={"average": 0.02})
    positions, error = torch.rand(400, 3, dtype=torch.float64) - 0.5, torch.ones(400, 4, dtype=torch.float64)
    direction = torch.zeros(1, 3, dtype=torch.float64)
    for _ in range(400):
        field.raw(positions, direction).backward(error)
    with field.rule.collecting() as tapes:
        y = field.raw(positions, direction)
    points = tapes[0].activations
    assert len(points) == sum(field.direct)
    mean = [
        torch.stack(x)
        for x in zip(*(torch.autograd.grad(y[:, c].mean(), points, retain_graph=True) for c in range(4)), strict=True)
    ]
    for matrix, jacobian in zip(field.rule.feedback.matrices, mean, strict=True):
        expected = jacobian.sum(1)
        assert ((matrix - expected).norm() / expected.norm()).item() < 0.06


def test_blocks_change_nothing_of_what_a_checkpoint_calls_the_weights():
    plain, blocks = make(4, 1).state_dict(), make(4, 2).state_dict()
    assert set(blocks) - set(plain) == {"pts_linears.1.back", "pts_linears.3.back"}
    assert not set(plain) - set(blocks)
