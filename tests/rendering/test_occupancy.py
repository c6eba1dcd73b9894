"""The occupancy against a scene that is known, and rendering with it against rendering all samples."""

import itertools
from dataclasses import replace

import pytest
import torch

from nerf_dfa.fields.field import Field
from nerf_dfa.rendering import (
    Cameras,
    OccupancyGrid,
    RadianceModel,
    Rays,
    RenderSettings,
    image_rays,
    packed,
    query,
    render_rays,
    renderer,
)
from nerf_dfa.rendering.occupancy import OPTICAL_DEPTH, dilated
from nerf_dfa.rendering.renderer import march, meeting

BOX = torch.tensor([[-1.0, -1.5, -1.0], [1.0, 1.5, 2.0]])
LENGTH = 0.1


def ball(positions, centre=(0.2, -0.3, 0.4), radius=0.5):
    """A density of 20 in a ball, and none outside."""
    return 20.0 * ((positions - torch.tensor(centre)).norm(dim=-1) < radius)


class Ball(Field):
    """The ball, in colours that depend on the place; counts the points that it is asked for."""

    def __init__(self, box=None):
        super().__init__("relu", box)
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.asked = 0

    def raw(self, positions, directions):
        self.asked += positions.shape[:-1].numel()
        return torch.cat([positions, self.scale * ball(positions)[..., None]], dim=-1)


def filled(resolution=32, density=ball, looks=8, box=BOX):
    grid, generator = OccupancyGrid(box, resolution), torch.Generator().manual_seed(0)
    for _ in range(looks):
        grid.update(density, LENGTH, generator)
    return grid


def test_before_the_first_look_everything_may_be_somewhere():
    assert OccupancyGrid(BOX, 4).contains(torch.rand(100, 3) * 4 - 2).all()


def test_matter_is_inside_and_far_from_it_is_empty():
    grid = filled()
    low, high = BOX
    points = low + torch.rand(20_000, 3, generator=torch.Generator().manual_seed(1)) * (high - low)
    inside = grid.contains(points)
    assert inside[ball(points) > 0].all()
    distance = (points - torch.tensor([0.2, -0.3, 0.4])).norm(dim=-1) - 0.5
    cell = ((high - low) / 32).norm().item()
    assert not inside[distance > 2.01 * cell].any()  # its cell's own diagonal and a neighbour's


def test_cells_are_numbered_as_points_are_placed():
    """A single cell that is full is found by its own points and its neighbours', and by no others."""
    n, (low, high) = 8, BOX
    size = (high - low) / n
    grid, cell = OccupancyGrid(BOX, n), torch.tensor([5, 1, 3])
    grid.update(
        lambda p: 100.0 * (((p - low) / size).floor() == cell).all(-1).float(), LENGTH, torch.Generator().manual_seed(0)
    )
    for i, j, k in itertools.product(range(n), repeat=3):
        centre = low + (torch.tensor([i, j, k]) + 0.5) * size
        near = (torch.tensor([i, j, k]) - cell).abs().max() <= 1
        assert grid.contains(centre).item() == near.item()


def test_outside_the_box_nothing_is_known():
    outside = torch.tensor([[1.01, 0.0, 0.0], [0.0, -1.6, 0.0], [0.0, 0.0, 2.5]])
    assert filled().contains(outside).all()


def test_what_becomes_empty_is_found_so_and_what_becomes_full_at_once():
    grid, generator = filled(16), torch.Generator().manual_seed(3)
    place = torch.tensor([[0.2, -0.3, 0.4]])
    other = torch.tensor([[-0.8, 1.2, 1.8]])

    def moved(positions):
        return ball(positions, centre=(-0.8, 1.2, 1.8))

    assert not grid.contains(other).item()
    grid.update(moved, LENGTH, generator)
    assert grid.contains(other).item()
    for _ in range(100):
        grid.update(moved, LENGTH, generator)
    assert not grid.contains(place).item()


def test_a_field_that_is_thin_everywhere_is_empty_nowhere():
    grid = filled(8, lambda p: torch.full((len(p),), 0.5 * OPTICAL_DEPTH / LENGTH))
    assert grid.occupied.all()


def test_a_share_of_the_cells_is_looked_at():
    asked = []
    grid = OccupancyGrid(BOX, 10)
    grid.update(lambda p: asked.append(len(p)) or torch.zeros(len(p)), LENGTH, torch.Generator(), share=0.25)
    assert sum(asked) == 250


@pytest.mark.parametrize("share", [1.0, 0.25, 0.05])
def test_as_much_is_left_between_two_looks_at_a_cell_where_looks_are_rare(share):
    grid = OccupancyGrid(BOX, 4)
    grid.density.fill_(1.0)
    for _ in range(round(1 / share)):  # as often as a cell is looked at once on average
        grid.update(lambda p: torch.zeros(len(p)), LENGTH, torch.Generator(), share)
    assert torch.allclose(grid.density, torch.tensor(0.9 if share == 1 else 0.9**4))


@pytest.mark.parametrize("shape", [(6, 7, 8), (1, 2, 9)])
def test_cells_beside_a_true_one_are_true(shape):
    cells = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.03
    places = itertools.product(*map(range, shape))
    near = [cells[tuple(slice(max(0, i - 1), i + 2) for i in place)].any() for place in places]
    assert torch.equal(dilated(cells), torch.stack(near).view(shape))


CAMERAS = Cameras(
    poses=torch.tensor([[[1.0, 0, 0, 0.1], [0, 1, 0, -0.2], [0, 0, 1, 4.5]]]),
    intrinsics=torch.tensor([[14.0, 14.0, 8.0, 8.0]]),
    width=16,
    height=16,
)
ALL_IN_VIEW = torch.tensor([[-5.0, -5.0, -3.0], [5.0, 5.0, 3.0]])
SETTINGS = RenderSettings(samples=40, importance=0, background=1.0, perturb=False)


def rays() -> Rays:
    return image_rays(CAMERAS, 0, 2.0, 7.0).map(lambda x: x.flatten(0, 1))


@pytest.mark.parametrize("importance", [0, 30])
@pytest.mark.parametrize("dual", ["none", "pixels", "raw"])
def test_views_are_the_same_with_fewer_points(importance, dual):
    if dual != "none" and not importance:
        return
    settings = replace(SETTINGS, importance=importance, dual=dual)
    coarse, fine = Ball(), Ball() if importance else None
    full = render_rays(RadianceModel(coarse, fine), rays(), settings).best
    asked, coarse.asked = coarse.asked, 0
    occupancy = filled(64, box=ALL_IN_VIEW)
    skipped = render_rays(RadianceModel(coarse, fine, occupancy), rays(), settings).best
    assert 0 < coarse.asked < 0.1 * asked
    torch.testing.assert_close(skipped.rgb, full.rgb, rtol=0, atol=2e-3)
    torch.testing.assert_close(skipped.depth, full.depth, rtol=0, atol=2e-3 * 7)


def test_where_nothing_is_skipped_pixels_and_gradients_are_equal():
    everything, generator = OccupancyGrid(BOX, 4), torch.Generator()
    found = []
    for occupancy in (None, everything):
        field = Ball()
        field.scale.data.fill_(0.2)  # so that light comes through, and rays end nowhere
        best = render_rays(RadianceModel(field, None, occupancy), rays(), replace(SETTINGS, perturb=True), generator)
        best.best.rgb.square().sum().backward()
        found.append((best.best.rgb.detach(), field.scale.grad))
        generator = torch.Generator()
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_rays_end_behind_what_lets_no_light_through(monkeypatch):
    monkeypatch.setattr(query, "ROWS", 1)  # only what is seen is asked for
    field = Ball()
    model = RadianceModel(field, None, OccupancyGrid(BOX, 4))
    with torch.no_grad():
        seen = render_rays(model, rays(), SETTINGS).best
    assert field.asked < 40 * 256 - 5 * 20  # some 20 rays meet the ball, in the middle of their way
    full = render_rays(RadianceModel(Ball(), None), rays(), SETTINGS).best
    torch.testing.assert_close(seen.rgb, full.rgb.detach(), rtol=0, atol=2e-3)


@pytest.mark.parametrize("error_kept", [1.0, 1.0 - 1e-7])
def test_they_do_so_in_training_too(monkeypatch, error_kept):
    """In one pass, or one that does not go back and one that does: of few samples behind those that light comes to."""
    monkeypatch.setattr(query, "ROWS", 1)
    monkeypatch.setattr(packed, "TOGETHER", 2)
    monkeypatch.setattr(renderer, "MUCH_LIT", 0.9)
    settings = replace(SETTINGS, samples=200, error_kept=error_kept)
    found = []
    for occupancy in (None, filled(64, box=ALL_IN_VIEW)):
        field = Ball()
        field.scale.data.fill_(3.0)  # half of it is in the dark
        passes = []
        field.raw = lambda x, d, raw=field.raw, passes=passes: passes.append(x.shape[:-1].numel()) or raw(x, d)
        model = RadianceModel(field, None, occupancy)
        if occupancy is not None:
            render_rays(model, rays(), settings)
            assert not model.ends
            model.settle()
            assert model.ends  # from now on
            passes.clear()
        rgb = render_rays(model, rays(), settings).best.rgb
        rgb.square().sum().backward()
        found.append((rgb.detach(), field.scale.grad))
        if occupancy is not None:
            occupied = occupancy.along(rays().origins, rays().directions, torch.linspace(2, 7, 200).expand(256, 200))
            assert max(passes) < 0.8 * int(occupied.sum())
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=2e-3)


@pytest.mark.parametrize("grad", [True, False])
def test_an_opaque_end_is_always_looked_at(grad):
    """Photographs have no background: what the last sample sees is there, though its cell be empty."""
    field = Ball(box=BOX)
    field.raw = lambda positions, directions: torch.cat([positions, torch.full_like(positions[..., :1], 1e-3)], dim=-1)
    empty = OccupancyGrid(BOX, 4)
    empty.occupied.zero_()
    settings = replace(SETTINGS, opaque_end=True)
    with torch.set_grad_enabled(grad):
        seen = render_rays(RadianceModel(field, None, empty), rays(), settings).best
    hits = rays().clipped(BOX)
    hits = hits.near < hits.far
    assert 0 < hits.sum() < 256 or hits.all()
    torch.testing.assert_close(seen.opacity, hits.float(), rtol=0, atol=1e-4)


def test_along_rays_it_says_the_same_as_of_points():
    grid = OccupancyGrid(torch.tensor([[-1.0, -2.0, 0.0], [1.0, 2.0, 3.0]]), 5)
    grid.occupied.copy_(torch.rand(5, 5, 5) > 0.5)
    origins, directions, t = torch.randn(40, 3), torch.randn(40, 3), torch.rand(40, 7) * 2
    points = origins[:, None] + t[..., None] * directions[:, None]
    assert torch.equal(grid.along(origins, directions, t), grid.contains(points))
    assert grid.contains(points).float().mean() < 1


@pytest.mark.parametrize("importance", [0, 30])
def test_rays_that_meet_nothing_are_not_followed(importance):
    """The others' pixels are those of following all; those are the background, at the far end."""
    settings = replace(SETTINGS, importance=importance, background=0.5)
    model = RadianceModel(Ball(), Ball() if importance else None, filled(64, box=ALL_IN_VIEW))
    with torch.no_grad():
        meets = meeting(model.occupancy, rays(), settings)
        assert 20 < meets.sum() < 100
        seen = render_rays(model, rays(), settings)
        every = march(model, rays(), rays().far, settings, None)
    for a, b in zip(seen, every, strict=True):
        if b is not None:
            for x, y in zip(a, b, strict=True):
                torch.testing.assert_close(x[meets], y[meets])
    assert (seen.best.rgb[~meets] == 0.5).all()
    assert (seen.best.opacity[~meets] == 0).all()
    assert (seen.best.depth[~meets] == 7).all()
    assert seen.best.weights.shape == every.best.weights.shape


def test_no_ray_meets_anything():
    empty = filled(8)
    empty.occupied.zero_()
    with torch.no_grad():
        seen = render_rays(RadianceModel(Ball(), Ball(), empty), rays(), replace(SETTINGS, importance=10)).best
    assert (seen.rgb == 1).all()
    assert (seen.depth == 7).all()
