"""The grid field: what it reads, and what the grids learn from."""

import pytest
import torch
import torch.nn.functional as F

from nerf_dfa.fields.grid import GridField
from nerf_dfa.rendering import RadianceModel, RenderSettings, render_rays
from nerf_dfa.rendering.query import query
from nerf_dfa.rendering.rays import Rays

BOX = torch.tensor([[-1.0, -2.0, 0.0], [1.0, 2.0, 3.0]])


def test_positions_are_measured_in_the_box():
    field = GridField(BOX, resolutions=[4], features=3, width=8)
    inside = torch.tensor([[0.0, 0.0, 1.5], [1.0, -2.0, 3.0]])
    unit = torch.tensor([[0.0, 0.0, 0.0], [1.0, -1.0, 1.0]])
    seen = []
    field.grids.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    field.raw(inside, torch.tensor([[0.0, 0.0, 1.0]]))
    torch.testing.assert_close(seen[0], unit)


def test_density_does_not_depend_on_the_direction_and_colour_does():
    field = GridField(BOX, resolutions=[4], features=3, width=16)
    points = torch.rand(6, 3)
    a, b = (field.raw(points, torch.tensor([d])) for d in ([0.0, 0.0, 1.0], [1.0, 0.0, 0.0]))
    assert torch.equal(a[:, 3], b[:, 3])
    assert (a[:, :3] - b[:, :3]).abs().min() > 0


def grid_gradient(field, points, signal):
    """What the table gets where the features get the signal, by grid_sample of the one dense grid."""
    n, features = field.grids.levels[0].corners[0], field.grids.width
    grid = field.grids.table.detach().T.reshape(1, features, n, n, n).clone().requires_grad_()
    low, high = BOX
    where = ((points - low) / (high - low) * 2 - 1).view(1, -1, 1, 1, 3)
    read = F.grid_sample(grid, where, padding_mode="border", align_corners=True).view(features, -1).T
    read.backward(signal)
    return grid.grad.reshape(features, -1).T


def learn(field, points, error):
    """The pre-activations of the first layer, after a backward pass of the error."""
    seen = []
    field.density_hidden.register_forward_hook(lambda module, args, output: seen.append(output.detach()))
    field.raw(points, torch.tensor([[0.0, 0.0, 1.0]])).backward(error)
    return seen[0]


def test_under_dfa_the_grid_learns_from_the_projected_error():
    """The features are a feedback point: their gradient is e @ B_0, spread over the corners of each point's cell."""
    field = GridField(BOX, resolutions=[3], features=6, width=8, learning_rule="dfa")
    points, error = torch.rand(7, 3), torch.randn(7, 4)
    learn(field, points, error)
    signal = error @ field.rule.feedback.projection.matrix[:, :6] / 6**0.5
    torch.testing.assert_close(field.grids.table.grad, grid_gradient(field, points, signal))


def test_or_from_the_first_layers_delta_times_its_weights():
    field = GridField(BOX, resolutions=[3], features=6, width=8, learning_rule="dfa", grid_gradient="first_layer")
    points, error = torch.rand(7, 3), torch.randn(7, 4)
    before = learn(field, points, error)
    delta = (error @ field.rule.feedback.projection.matrix[:, :8] / 8**0.5) * (before > 0)
    signal = delta @ field.density_hidden.weight
    torch.testing.assert_close(field.grids.table.grad, grid_gradient(field, points, signal))
    torch.testing.assert_close(field.density_hidden.bias.grad, delta.sum(0))


def test_or_from_the_first_layers_delta_times_what_learns_as_its_weights_do():
    field = GridField(BOX, resolutions=[3], features=6, width=8, learning_rule="dfa", grid_gradient="kp")
    points, error = torch.rand(7, 3), torch.randn(7, 4)
    before = learn(field, points, error)
    delta = (error @ field.rule.feedback.projection.matrix[:, :8] / 8**0.5) * (before > 0)
    layer = field.density_hidden
    assert not torch.equal(layer.back, layer.weight)
    torch.testing.assert_close(field.grids.table.grad, grid_gradient(field, points, delta @ layer.back))
    torch.testing.assert_close(layer.back.grad, layer.weight.grad)
    with field.rule.collecting():  # the true gradient, to measure alignment with
        field.zero_grad()
        raw = field.raw(points, torch.tensor([[0.0, 0.0, 1.0]]))
        (found,) = torch.autograd.grad(raw, field.grids.table, error)
    exact = GridField(BOX, resolutions=[3], features=6, width=8, learning_rule="bp")
    exact.load_state_dict({k: v for k, v in field.state_dict().items() if k in exact.state_dict()})
    learn(exact, points, error)
    torch.testing.assert_close(found, exact.grids.table.grad)


def test_or_times_what_mirrors_its_weights():
    field = GridField(BOX, resolutions=[3], features=6, width=8, learning_rule="dfa", grid_gradient="mirror")
    points, error = torch.rand(7, 3), torch.randn(7, 4)
    before = learn(field, points, error)
    delta = (error @ field.rule.feedback.projection.matrix[:, :8] / 8**0.5) * (before > 0)
    torch.testing.assert_close(field.grids.table.grad, grid_gradient(field, points, delta @ field.density_hidden.back))


@pytest.mark.parametrize("rule", ["bp", "fa"])
def test_without_feedback_points_both_are_one(rule):
    gradients = []
    for choice in ("feedback", "first_layer"):
        torch.manual_seed(1)
        field = GridField(BOX, resolutions=[3], features=2, width=8, learning_rule=rule, grid_gradient=choice)
        learn(field, torch.rand(7, 3), torch.randn(7, 4))
        gradients.append(field.grids.table.grad)
    assert torch.equal(*gradients)
    assert gradients[0].any()


@pytest.mark.parametrize("rule", ["bp", "dfa"])
def test_points_in_parts_or_at_once(rule):
    field = GridField(BOX, resolutions=[4, 20], features=4, width=8, log2_table=10, learning_rule=rule)
    directions = F.normalize(torch.randn(10, 3), dim=-1)
    rays = Rays(
        torch.zeros(10, 3) + torch.tensor([0.0, 0.0, 1.5]), directions, directions, torch.zeros(10), torch.ones(10)
    )
    t, error = torch.rand(10, 6), torch.randn(10, 6, 4)
    results = []
    for netchunk in (1000, 13):
        field.zero_grad()
        raw = query(field, rays, t, RenderSettings(netchunk=netchunk))
        raw.backward(error)
        results.append([raw.detach(), *(p.grad.clone() for p in field.parameters())])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


def test_under_shallow_the_grid_does_not_learn():
    field = GridField(BOX, resolutions=[2], features=3, width=8, learning_rule="shallow")
    field.raw(torch.rand(7, 3), torch.tensor([[0.0, 0.0, 1.0]])).sum().backward()
    trained = {name for name, p in field.named_parameters() if p.grad is not None}
    assert trained == {"density_head.weight", "density_head.bias", "colour_head.weight", "colour_head.bias"}


def test_rays_are_clipped_to_the_box():
    """A ray through the middle, one that starts inside, one that misses, one along a face's normal only."""
    origins = torch.tensor([[-4.0, 0.0, 1.0], [0.0, 0.0, 1.0], [-4.0, 5.0, 1.0], [0.5, 0.5, -1.0]])
    directions = torch.tensor([[2.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    rays = Rays(origins, directions, directions, torch.full((4,), 0.25), torch.full((4,), 3.75))
    clipped = rays.clipped(BOX)
    torch.testing.assert_close(clipped.near, torch.tensor([1.5, 0.25, 0.25, 1.0]))
    torch.testing.assert_close(clipped.far, torch.tensor([2.5, 1.0, 0.25, 3.75]))


def test_a_ray_that_misses_the_box_sees_the_background_at_the_far_end():
    field = GridField(BOX, resolutions=[2], features=2, width=8)
    origins, directions = torch.tensor([[-4.0, 5.0, 1.0]]), torch.tensor([[1.0, 0.0, 0.0]])
    rays = Rays(origins, directions, directions, torch.tensor([1.0]), torch.tensor([6.0]))
    seen = render_rays(RadianceModel(field, None), rays, RenderSettings(samples=8, background=1.0)).coarse
    assert seen.rgb.tolist() == [[1.0, 1.0, 1.0]]
    assert seen.opacity.item() == 0
    assert seen.depth.item() == 6
