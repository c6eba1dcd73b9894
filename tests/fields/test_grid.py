"""The grid field: trilinear interpolation by hand, and what the grids learn from."""

import itertools

import pytest
import torch

from nerf_dfa.fields.grid import DenseGrids, GridField, level_resolutions
from nerf_dfa.rendering.rays import Rays
from nerf_dfa.rendering.renderer import RadianceModel, RenderSettings, render_rays

BOX = torch.tensor([[-1.0, -2.0, 0.0], [1.0, 2.0, 3.0]])


def trilinear(grid, point):
    """Value at one point in [-1, 1]^3 of a grid (features, z, y, x) whose corners lie on the cube's surface."""
    features, size = grid.shape[0], grid.shape[1]
    place = (point.clamp(-1, 1) + 1) / 2 * (size - 1)
    low = place.floor().long().clamp(max=size - 2)
    fraction = place - low
    value = torch.zeros(features, dtype=grid.dtype)
    for corner in itertools.product((0, 1), repeat=3):
        weight = torch.stack([fraction[i] if corner[i] else 1 - fraction[i] for i in range(3)]).prod()
        x, y, z = (int(low[i]) + corner[i] for i in range(3))
        value += weight * grid[:, z, y, x]
    return value


def test_features_are_trilinear_in_every_grid():
    grids = DenseGrids([3, 5], 2).double()
    points = torch.rand(4, 5, 3, dtype=torch.float64) * 2.4 - 1.2  # some lie outside
    expected = torch.stack(
        [torch.cat([trilinear(grid[0].detach(), p) for grid in grids.grids]) for p in points.reshape(-1, 3)]
    )
    got = grids(points)
    assert got.shape == (4, 5, 4)
    torch.testing.assert_close(got.reshape(-1, 4), expected)


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


def test_under_dfa_the_grid_learns_from_the_projected_error():
    """The features are a feedback point: their gradient is e @ B_0, spread over the corners of each point's cell."""
    torch.manual_seed(0)
    field = GridField(BOX, resolutions=[2], features=3, width=8, learning_rule="dfa")
    points = torch.rand(7, 3)
    directions = torch.tensor([[0.0, 0.0, 1.0]])
    error = torch.randn(7, 4)
    field.raw(points, directions).backward(error)

    signal = error @ field.rule.feedback.projection.matrix[:, :3] / 3**0.5
    grid = field.grids.grids[0].detach().clone().requires_grad_()
    low, high = BOX
    values = torch.stack([trilinear(grid[0], (p - low) / (high - low) * 2 - 1) for p in points])
    values.backward(signal)
    torch.testing.assert_close(field.grids.grids[0].grad, grid.grad)


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


@pytest.mark.parametrize(
    ("arguments", "expected"), [((16, 64, 3), [16, 32, 64]), ((16, 96, 1), [96]), ((8, 64, 4), [8, 16, 32, 64])]
)
def test_resolutions_are_in_geometric_progression(arguments, expected):
    assert level_resolutions(*arguments) == expected
