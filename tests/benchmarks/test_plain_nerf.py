"""The plain NeRF against this program's own parts: what is compared has to be the same thing."""

import json

import pytest
import torch

from nerf_dfa.benchmarks import plain_nerf
from nerf_dfa.fields import MLPField
from nerf_dfa.rendering import compositing
from nerf_dfa.rendering.sampling import inverse_transform


def unit(*shape):
    return torch.nn.functional.normalize(torch.randn(*shape, 3), dim=-1)


@pytest.mark.parametrize("depth", [3, 8])
def test_its_network_is_the_mlp_field(depth):
    plain, field = plain_nerf.PlainMLP(depth, 32), MLPField(depth, 32, density_activation="relu")
    theirs = field.state_dict()
    names = {"layers": "pts_linears", "density": "alpha_linear", "feature": "feature_linear", "view": "views_linears.0",
             "colour": "rgb_linear"}  # fmt: skip
    own = {}
    for name in plain.state_dict():
        first, rest = name.split(".", 1)
        own[name] = theirs[f"{names[first]}.{rest}"]
    plain.load_state_dict(own)
    assert len(own) == len([name for name in theirs if "rule" not in name])
    positions, directions = torch.rand(20, 7, 3) * 4 - 2, unit(20)
    sigma, rgb = plain(positions, directions[:, None].expand(20, 7, 3))
    expected_sigma, expected_rgb = field(positions, directions[:, None])
    torch.testing.assert_close(sigma, expected_sigma)
    torch.testing.assert_close(rgb, expected_rgb)
    assert sigma.max() > 0


def test_its_compositing_is_the_renderers():
    sigma, rgb = torch.randn(50, 16).relu() * 3, torch.rand(50, 16, 3)
    t, directions = torch.rand(50, 16).sort(dim=-1).values * 4 + 2, torch.randn(50, 3)
    sigma[:5] = 0
    colours, weights = plain_nerf.composite(sigma, rgb, t, directions)
    delta = compositing.intervals(t, torch.full((50,), 6.0), directions, True)
    expected = compositing.composite(sigma, rgb, t, delta, torch.full((50,), 6.0), 1.0)
    torch.testing.assert_close(colours, expected.rgb, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(weights, expected.weights, atol=1e-5, rtol=1e-4)


def test_its_importance_samples_are_the_quantiles_of_the_weights(monkeypatch):
    t, weights = torch.rand(30, 12).sort(dim=-1).values, torch.rand(30, 12)
    middle = (t[:, 1:] + t[:, :-1]) / 2
    u = torch.linspace(0, 1, 9).expand(30, 9).contiguous()
    monkeypatch.setattr(torch, "rand", lambda *args, **kwargs: u)
    got = plain_nerf.importance(t, weights, 9)
    torch.testing.assert_close(got, inverse_transform(middle, weights[:, 1:-1], 9), atol=1e-5, rtol=1e-5)


def test_stratified_samples_lie_one_in_each_part():
    t = plain_nerf.stratified(2.0, 6.0, 100, 8, torch.device("cpu"))
    assert (((t - 2) / 0.5).floor() == torch.arange(8)).all()


def test_it_learns():
    directions = unit(256)
    model = plain_nerf.PlainNeRF(3, 32, 8, 8)
    step = plain_nerf.make_step(model, -4 * directions, directions, (directions + 1) / 2, 2.0, 6.0, 128)
    losses = [step() for _ in range(200)]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_it_prints_one_json_object(capsys):
    flags = "--rays 8 --depth 2 --width 16 --coarse 4 --fine 4 --rounds 1 --device cpu".split()
    assert plain_nerf.main(flags) == 0
    result = json.loads(capsys.readouterr().out)
    assert {"machine", "settings", "matmul_gflops", "step_ms", "rays_per_second", "step_over_forward"} <= set(result)
    assert result["rays_per_second"] == pytest.approx(8 / result["step_ms"] * 1e3)
