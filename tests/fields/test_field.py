"""From raw outputs to density and colour, in closed form."""

import math

import pytest
import torch
from torch import nn

from nerf_dfa.fields import GridField, MLPField
from nerf_dfa.fields.encodings import positional_encoding
from nerf_dfa.fields.field import Field, raw_of

VALUES = [-80.0, -3.0, -0.5, 0.0, 0.7, 2.0, 5.0, 60.0]


def raw_outputs():
    density = torch.tensor(VALUES, dtype=torch.float64)
    return torch.stack([density * 0.1, density * -0.2, density * 0.0, density], dim=-1)


def softplus(x):
    return math.log(1 + math.exp(x))


@pytest.mark.parametrize(
    ("activation", "closed_form"),
    [
        ("softplus", lambda x: softplus(x - 2)),
        ("relu", lambda x: max(x, 0)),
        ("exp", lambda x: math.exp(min(x, 15))),
    ],
)
def test_density_is_the_activation_of_the_fourth_output(activation, closed_form):
    sigma, _ = Field(activation).activate(raw_outputs())
    assert sigma.tolist() == pytest.approx([closed_form(x) for x in VALUES], rel=1e-8, abs=1e-15)


def test_a_new_field_is_a_thin_fog():
    sigma, _ = Field().activate(torch.zeros(4))
    assert sigma.item() == pytest.approx(math.log(1 + math.exp(-2)), rel=1e-6)


@pytest.mark.parametrize("activation", ["softplus", "relu", "exp"])
def test_density_and_its_gradient_are_finite_and_not_negative_for_any_raw_output(activation):
    raw = torch.tensor([-1e30, -1e4, -90.0, 0.0, 90.0, 1e4, 1e30])[:, None].expand(-1, 4).clone().requires_grad_()
    sigma, rgb = Field(activation).activate(raw)
    (sigma.sum() + rgb.sum()).backward()
    assert sigma.isfinite().all()
    assert (sigma >= 0).all()
    assert raw.grad.isfinite().all()


def test_colour_is_the_sigmoid_of_the_first_three_outputs():
    _, rgb = Field().activate(raw_outputs())
    for value, colour in zip(VALUES, rgb.tolist(), strict=True):
        expected = [1 / (1 + math.exp(-k * value)) for k in (0.1, -0.2, 0.0)]
        assert colour == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("activation", ["softplus", "relu", "exp"])
def test_noise_is_added_to_the_raw_density_alone(activation):
    field, raw = Field(activation), raw_outputs()
    noise = torch.linspace(-2, 2, len(VALUES), dtype=torch.float64)
    sigma, rgb = field.activate(raw, noise)
    shifted = raw.clone()
    shifted[:, 3] += noise
    assert torch.equal(sigma, field.activate(shifted)[0])
    assert torch.equal(rgb, field.activate(raw)[1])


def test_calling_a_field_activates_its_raw_outputs():
    class Linear(Field):
        def raw(self, positions, directions):
            return torch.cat([positions * directions, positions[..., :1]], dim=-1)

    positions = torch.tensor([[[0.0, 1.0, 2.0], [3.0, -1.0, 0.5]]])
    sigma, rgb = Linear("relu")(positions, torch.tensor([[[1.0, -1.0, 0.5]]]))
    assert sigma.tolist() == [[0.0, 3.0]]
    torch.testing.assert_close(rgb, torch.sigmoid(torch.tensor([[[0.0, -1.0, 1.0], [3.0, 1.0, 0.25]]])))


@pytest.mark.parametrize("density", [0.01, 0.1, 3.0])
@pytest.mark.parametrize("activation", ["softplus", "relu", "exp"])
def test_raw_of_is_the_inverse(activation, density):
    sigma, _ = Field(activation).activate(torch.tensor([0.0, 0.0, 0.0, raw_of(density, activation)]))
    assert sigma.item() == pytest.approx(density, rel=1e-5)


FIELDS = {
    "mlp": lambda **options: MLPField(2, 16, 2, 1, **options),
    "mlp without directions": lambda **options: MLPField(2, 16, 2, 1, use_viewdirs=False, **options),
    "grid": lambda **options: GridField(torch.tensor([[-1.0] * 3, [1.0] * 3]), [2, 3], 2, width=16, **options),
}


@pytest.mark.parametrize("density_activation", ["softplus", "relu", "exp"])
@pytest.mark.parametrize("name", FIELDS)
def test_density_alone_is_the_density(name, density_activation):
    field = FIELDS[name](density_activation=density_activation, learning_rule="dfa")
    positions, direction = torch.rand(3, 5, 3) * 2 - 1, torch.nn.functional.normalize(torch.randn(3, 1, 3), dim=-1)
    torch.testing.assert_close(field.density(positions), field(positions, direction)[0])
    with torch.no_grad():
        torch.testing.assert_close(field.density(positions[0]), field(positions[0], direction[0])[0])


def test_density_of_a_field_that_has_raw_outputs_alone():
    class Radius(Field):
        def raw(self, positions, directions):
            return torch.cat([positions + directions, positions.norm(dim=-1, keepdim=True)], dim=-1)

    assert Radius("relu").density(torch.tensor([[3.0, 0.0, 4.0], [0.0, 2.0, 0.0]])).tolist() == [5.0, 2.0]


@pytest.mark.parametrize("density_activation", ["softplus", "relu", "exp"])
@pytest.mark.parametrize("name", FIELDS)
def test_a_field_starts_at_a_colour_and_a_small_density(name, density_activation):
    field = FIELDS[name](density_activation=density_activation)
    colour = torch.tensor([0.2, 0.5, 0.9])
    field.start_at(colour)
    for module in field.modules():
        if isinstance(module, nn.Linear):  # what the weights add is gone, the biases are left
            nn.init.zeros_(module.weight)
    sigma, rgb = field(torch.rand(5, 3) * 2 - 1, torch.nn.functional.normalize(torch.randn(5, 3), dim=-1))
    torch.testing.assert_close(sigma, torch.full((5,), 0.1))
    torch.testing.assert_close(rgb, colour.expand(5, 3))


@pytest.mark.parametrize("rule", ["bp", "dfa"])
@pytest.mark.parametrize(
    ("activation", "closed_form"),
    [("tanh", torch.tanh), ("silu", lambda x: x / (1 + torch.exp(-x))), ("sine", torch.sin)],
)
def test_hidden_activations(activation, closed_form, rule):
    """Against the network written out, with gradients under bp."""
    torch.manual_seed(0)
    field = MLPField(2, 16, 2, 1, activation=activation, learning_rule=rule).double()
    positions = torch.rand(6, 3, dtype=torch.float64) * 2 - 1
    directions = torch.nn.functional.normalize(torch.randn(6, 3, dtype=torch.float64), dim=-1)
    x = positional_encoding(positions, 2)
    for layer in field.pts_linears:
        x = closed_form(layer(x))
    hidden = torch.cat([field.feature_linear(x), positional_encoding(directions, 1)], dim=-1)
    expected = torch.cat([field.rgb_linear(closed_form(field.views_linears[0](hidden))), field.alpha_linear(x)], dim=-1)
    raw = field.raw(positions, directions)
    torch.testing.assert_close(raw, expected.float())
    error = torch.randn(6, 4)
    (raw * error).sum().backward()
    weight = field.rgb_linear.weight if rule == "dfa" else field.pts_linears[0].weight
    (gradient,) = torch.autograd.grad((expected * error).sum(), weight)
    torch.testing.assert_close(weight.grad, gradient, rtol=1e-5, atol=1e-8)


def test_grid_field_takes_the_activation():
    torch.manual_seed(0)
    field = FIELDS["grid"](activation="sine")
    positions, directions = torch.rand(4, 3), torch.nn.functional.normalize(torch.randn(4, 3), dim=-1)
    hidden = torch.sin(field.density_hidden(field.grids(positions)))
    sigma = field.density_head(hidden)
    hidden = torch.sin(field.colour_hidden(torch.cat([hidden, positional_encoding(directions, 2)], dim=-1)))
    expected = torch.cat([field.colour_head(hidden), sigma], dim=-1)
    torch.testing.assert_close(field.raw(positions, directions), expected)
