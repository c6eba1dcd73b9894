"""What rays meet: entries, normals, shadows and light of the demo scene's solids, against marching and counting."""

import math

import numpy as np
import pytest
import torch
from scenes.geometry import MATT, SHAPES, entries, march, outside, random_rays

from nerf_dfa.scenes import procedural
from nerf_dfa.scenes.procedural import (
    LIGHT_DIRECTION,
    LIGHT_RADIUS,
    in_shadow,
    light_directions,
    nearest,
    openness,
    pixel_offsets,
)
from nerf_dfa.scenes.solids import GROUND_Z, SOLIDS, STANDING, Box, Frustum, Sphere


@pytest.mark.parametrize("name", SHAPES)
def test_entry_agrees_with_marching_along_the_ray(name):
    solid = SHAPES[name]
    o, d = random_rays(400, solid.centre, 0.5, seed=1)
    t = entries(solid, o, d).double().numpy()
    o, d = o.double().numpy().T, d.double().numpy().T
    length, steps = 3.5, 2000  # |d| >= 0.3 x 1, so that every ray is followed well past the solid
    brute = march([solid], o, d, length / 0.3, steps)
    both = np.isfinite(brute)
    assert 100 < both.sum() < 390
    np.testing.assert_allclose(t[both], brute[both], rtol=0, atol=2e-5)
    # Where the steps found nothing the solid may still be grazed between two of them.
    grazed = np.isfinite(t) & ~both
    assert grazed.sum() < 8
    points = o[grazed] + t[grazed, None] * d[grazed]
    assert np.all(abs(outside(solid, points)) < 1e-4)


@pytest.mark.parametrize("name", SHAPES)
def test_normal_is_the_gradient_of_the_distance(name):
    solid = SHAPES[name]
    o, d = random_rays(400, solid.centre, 0.3, seed=2)
    t = entries(solid, o, d)
    points = (o + t * d)[:, t.isfinite()]
    normals = solid.normal(points - torch.tensor(solid.centre)[:, None]).double().numpy()
    p, h = points.double().numpy().T, 1e-4
    steps = [outside(solid, p + h * axis) - outside(solid, p - h * axis) for axis in np.eye(3)]
    gradient = np.stack(steps) / np.linalg.norm(np.stack(steps), axis=0)
    # At an edge the difference straddles two faces.
    smooth = (normals * gradient).sum(0) > 1 - 1e-4
    assert smooth.mean() > 0.98
    np.testing.assert_allclose(normals[:, smooth], gradient[:, smooth], atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=0), 1, atol=1e-6)


def test_hand_computed_entries():
    o = torch.tensor([[-2.0, 0.0, 0.0], [0.0, 0.0, 3.0], [-2.0, 0.5, 0.0], [2.0, 0.0, 0.0]]).T
    d = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]).T
    centre = (0.0, 0.0, 0.0)
    inf = math.inf  # the third ray passes beside, the fourth leads away
    for solid, expected in [
        (Sphere(centre, MATT, radius=0.5), [0.75, 2.5, inf, inf]),
        (Box(centre, MATT, half=(0.3, 0.4, 0.2), turn=0.0), [0.85, 2.8, inf, inf]),
        (Frustum(centre, MATT, bottom=0.4, top=0.4, half=0.2), [0.8, 2.8, inf, inf]),
        (Frustum(centre, MATT, bottom=0.4, top=0.0, half=0.2), [0.9, 2.8, inf, inf]),
    ]:
        torch.testing.assert_close(entries(solid, o, d), torch.tensor(expected))
    # A ray along the cone's far side, where the quadratic is linear: x + z = 0.1 enters at x = -(0.2 - z).
    cone = Frustum(centre, MATT, bottom=0.4, top=0.0, half=0.2)
    o, d = torch.tensor([[-1.0], [0.0], [1.1]]), torch.tensor([[1.0], [0.0], [-1.0]])
    torch.testing.assert_close(entries(cone, o, d), torch.tensor([0.95]))


def test_nearest_finds_the_first_of_all_solids():
    o, d = random_rays(300, (0.0, 0.0, 0.0), 0.8, seed=3)
    t, which = nearest(o, d)
    brute = march(SOLIDS, o.double().numpy().T, d.double().numpy().T, 12.0, 3000)
    both = np.isfinite(brute) & t.isfinite().numpy()
    np.testing.assert_allclose(t.numpy()[both], brute[both], atol=5e-5)
    assert (np.isfinite(brute) != t.isfinite().numpy()).sum() <= 4  # grazed between two steps
    points = (o + t * d).T.double().numpy()[both]
    for point, index in zip(points, which[both], strict=True):
        assert abs(outside(SOLIDS[index], point)) < 1e-4


def test_shadow_agrees_with_marching_towards_the_light():
    rng = np.random.default_rng(4)
    o = np.concatenate([rng.uniform(-1, 1, (400, 2)), np.full((400, 1), GROUND_Z + 1e-4)], 1)
    o = o[np.min([outside(solid, o) for solid in STANDING], axis=0) > 1e-3]
    light = light_directions(16)[:, torch.arange(len(o)) % 16]
    hidden = in_shadow(torch.tensor(o.T, dtype=torch.float32), light).numpy()
    brute = np.isfinite(march(STANDING, o, light.double().numpy().T, 2.0, 1500))
    assert 40 < brute.sum() < len(o) - 40
    assert (hidden != brute).sum() <= 1  # a solid may be grazed between two steps


def test_shadow_falls_away_from_the_light():
    red = STANDING[0]
    foot = torch.tensor(red.centre) - torch.tensor(LIGHT_DIRECTION) * (red.radius / LIGHT_DIRECTION[2])
    torch.testing.assert_close(foot[2], torch.tensor(GROUND_Z))
    opposite = 2 * torch.tensor(red.centre) - foot
    opposite[2] = GROUND_Z
    o = torch.stack([foot, opposite], 1) + 1e-4
    for light in light_directions(16).T:
        assert in_shadow(o, light[:, None].expand_as(o)).tolist() == [True, False]


def test_openness_agrees_with_counting_blocked_directions(monkeypatch):
    ball = Sphere((0.5, 0.2, 0.9), MATT, radius=0.35)
    monkeypatch.setattr(procedural, "STANDING", (ball,))
    up = torch.tensor([[0.0], [0.0], [1.0]])
    # Cosine-weighted directions about z: evenly spread places in the unit disc, lifted to the hemisphere.
    u, v = pixel_offsets(40_000)
    d = torch.stack([u.sqrt() * (2 * math.pi * v).cos(), u.sqrt() * (2 * math.pi * v).sin(), (1 - u).sqrt()])
    blocked = entries(ball, torch.zeros_like(d), d).isfinite().float().mean()
    torch.testing.assert_close(openness(torch.zeros(3, 1), up)[0], 1 - blocked, atol=2e-3, rtol=0)
    assert openness(torch.zeros(3, 1), -up)[0] == 1
    # A solid shades nothing of its own surface.
    surface = torch.tensor(ball.centre)[:, None] + 0.35 * up
    assert openness(surface, up)[0] == 1


def test_light_is_a_disc_of_the_stated_size():
    lights = light_directions(64).double()
    axis = torch.tensor(LIGHT_DIRECTION, dtype=torch.float64)
    axis /= axis.norm()
    torch.testing.assert_close(lights.norm(dim=0), torch.ones(64).double(), atol=1e-6, rtol=0)
    angle = torch.acos((axis @ lights).clamp(max=1))
    assert angle.max() < LIGHT_RADIUS
    # Even over the disc's area: the mean of tan² is half its greatest value.
    torch.testing.assert_close(angle.tan().square().mean().item(), math.tan(LIGHT_RADIUS) ** 2 / 2, rtol=1e-3, atol=0)
    mean = lights.mean(1)
    assert (mean / mean.norm()) @ axis > math.cos(0.05 * LIGHT_RADIUS)
