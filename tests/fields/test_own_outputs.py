"""Layers between density and colour under feedback of their own outputs: the density's error does not reach them."""

import pytest
import torch

from nerf_dfa.fields import GridField, MLPField

BOX = torch.tensor([[-1.0] * 3, [1.0] * 3])
FIELDS = {
    "mlp": lambda rule, own: MLPField(3, 16, learning_rule=rule, own_outputs=own),
    "grid": lambda rule, own: GridField(BOX, (4, 8), width=16, learning_rule=rule, own_outputs=own),
}
COLOUR_LAYERS = {"mlp": ("feature_linear", "views_linears.0"), "grid": ("colour_hidden",)}
TRUNK = {"mlp": "pts_linears.0.weight", "grid": "density_hidden.weight"}


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("rule", ["dfa", "dkp", "fdfa"])
@pytest.mark.parametrize("name", FIELDS)
def test_the_densitys_error_stays_where_it_belongs(name, rule, own):
    torch.manual_seed(0)
    field = FIELDS[name](rule, own)
    positions, directions = torch.rand(32, 3) - 0.5, torch.nn.functional.normalize(torch.randn(32, 3), dim=-1)
    field.raw(positions, directions)[:, 3].square().sum().backward()
    gradients = {key: p.grad for key, p in field.named_parameters() if p.grad is not None}
    for layer in COLOUR_LAYERS[name]:
        assert bool(gradients[f"{layer}.weight"].any()) == (not own)
    assert gradients[TRUNK[name]].any()
    field.zero_grad()
    field.raw(positions, directions)[:, 0].sum().backward()
    for layer in COLOUR_LAYERS[name]:
        assert dict(field.named_parameters())[f"{layer}.weight"].grad.any()
