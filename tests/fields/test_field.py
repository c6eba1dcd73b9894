"""From raw outputs to density and colour, in closed form."""

import math

import pytest
import torch

from nerf_dfa.fields.field import Field

VALUES = [-80.0, -3.0, -0.5, 0.0, 0.7, 2.0, 5.0, 60.0]


def raw_outputs():
    density = torch.tensor(VALUES, dtype=torch.float64)
    return torch.stack([density * 0.1, density * -0.2, density * 0.0, density], dim=-1)


def softplus(x):
    return math.log(1 + math.exp(x))


@pytest.mark.parametrize(
    ("activation", "closed_form"), [("softplus", lambda x: softplus(x - 2)), ("relu", lambda x: max(x, 0))]
)
def test_density_is_the_activation_of_the_fourth_output(activation, closed_form):
    sigma, _ = Field(activation).activate(raw_outputs())
    assert sigma.tolist() == pytest.approx([closed_form(x) for x in VALUES], rel=1e-8, abs=1e-15)


def test_a_new_field_is_a_thin_fog():
    sigma, _ = Field().activate(torch.zeros(4))
    assert sigma.item() == pytest.approx(math.log(1 + math.exp(-2)), rel=1e-6)


@pytest.mark.parametrize("activation", ["softplus", "relu"])
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


@pytest.mark.parametrize("activation", ["softplus", "relu"])
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
