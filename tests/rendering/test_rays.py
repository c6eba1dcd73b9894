"""Rays against geometry done by hand, and normalised device coordinates against the perspective matrix."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from nerf_dfa.rendering.cameras import Cameras
from nerf_dfa.rendering.rays import Rays, camera_rays, image_rays, to_ndc

WIDTH, HEIGHT = 10, 6
FX, FY, CX, CY = 20.0, 16.0, 4.0, 3.5  # neither square pixels nor a centred lens


def rotation(degrees, axis):
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    i, j = [(1, 2), (2, 0), (0, 1)][axis]
    matrix = np.eye(3)
    matrix[i, i], matrix[i, j], matrix[j, i], matrix[j, j] = c, -s, s, c
    return matrix


ROTATION = rotation(130, 2) @ rotation(65, 0)
CENTRE = np.array([1.0, -2.0, 3.0])


@pytest.fixture
def cameras():
    """Two cameras: one in the origin that looks along -z, and one turned and moved."""
    poses = np.stack([np.eye(3, 4), np.concatenate([ROTATION, CENTRE[:, None]], axis=1)])
    return Cameras(torch.tensor(poses), torch.tensor([[FX, FY, CX, CY]] * 2, dtype=torch.float64), WIDTH, HEIGHT)


def one(cameras, view, row, column, **options):
    return camera_rays(cameras, *(torch.tensor([i]) for i in (view, row, column)), near=2.0, far=6.0, **options)


@pytest.mark.parametrize(
    ("row", "column", "expected"),
    [
        (3, 4, [0.5 / 20, 0.0, -1.0]),  # half a pixel to the right of the lens's centre (4, 3.5)
        (0, 0, [-3.5 / 20, 3.0 / 16, -1.0]),  # top left: to the left and up
        (5, 9, [5.5 / 20, -2.0 / 16, -1.0]),  # bottom right: to the right and down
    ],
)
def test_a_camera_looks_along_minus_z_with_x_right_and_y_up_through_pixel_centres(cameras, row, column, expected):
    rays = one(cameras, 0, row, column)
    assert rays.directions[0].tolist() == pytest.approx(expected, abs=1e-12)
    assert rays.origins[0].tolist() == [0, 0, 0]
    assert (rays.near.item(), rays.far.item()) == (2.0, 6.0)


def test_a_pose_turns_directions_and_moves_origins(cameras):
    rays = one(cameras, 1, 5, 9)
    expected = ROTATION @ np.array([5.5 / 20, -2.0 / 16, -1.0])
    np.testing.assert_allclose(rays.directions[0], expected, atol=1e-12)
    np.testing.assert_allclose(rays.origins[0], CENTRE, atol=1e-12)
    np.testing.assert_allclose(rays.viewdirs[0], expected / np.linalg.norm(expected), atol=1e-12)


def test_t_is_the_depth_along_the_cameras_axis(cameras):
    rays = image_rays(cameras, 1, 2.0, 6.0)
    points = rays.origins + 3.7 * rays.directions
    axis = torch.tensor(ROTATION @ np.array([0.0, 0.0, -1.0]))
    depth = (points - torch.tensor(CENTRE)) @ axis
    torch.testing.assert_close(depth, torch.full((HEIGHT, WIDTH), 3.7, dtype=torch.float64))


def test_a_point_of_the_world_lies_on_the_ray_of_the_pixel_that_it_projects_to(cameras):
    """The inverse way: the point is projected by the pinhole equations onto its pixel."""
    in_camera = np.array([(7.5 - CX) / FX, -(1.5 - CY) / FY, -1.0]) * 4.2
    point = ROTATION @ in_camera + CENTRE
    x, y, z = ROTATION.T @ (point - CENTRE)
    column, row = math.floor(CX + FX * x / -z), math.floor(CY - FY * y / -z)
    assert (row, column) == (1, 7)
    rays = one(cameras, 1, row, column)
    np.testing.assert_allclose((rays.origins + 4.2 * rays.directions)[0], point, atol=1e-12)


@pytest.mark.parametrize("ndc", [False, True])
def test_image_rays_are_camera_rays_pixel_by_pixel(cameras, ndc):
    whole = image_rays(cameras, 1, 2.0, 6.0, ndc)
    assert whole.origins.shape == (HEIGHT, WIDTH, 3)
    for row in range(HEIGHT):
        for column in range(WIDTH):
            for a, b in zip(whole, one(cameras, 1, row, column, ndc=ndc), strict=True):
                torch.testing.assert_close(a[row, column], b[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("ndc", [False, True])
def test_viewdirs_are_unit_vectors_along_the_rays_in_the_world(cameras, ndc):
    rays = image_rays(cameras, 1, 0.0, 1.0, ndc)
    torch.testing.assert_close(rays.viewdirs.norm(dim=-1), torch.ones(HEIGHT, WIDTH, dtype=torch.float64))
    world = image_rays(cameras, 1, 2.0, 6.0).directions
    torch.testing.assert_close(torch.linalg.cross(rays.viewdirs, world), torch.zeros_like(world), rtol=0, atol=1e-12)
    assert ((rays.viewdirs * world).sum(-1) > 0).all()


def forward_facing_rays(count=40):
    rng = np.random.default_rng(0)
    origins = rng.normal(size=(count, 3)) * 0.3
    directions = np.concatenate([rng.uniform(-0.6, 0.6, (count, 2)), rng.uniform(-1.2, -0.8, (count, 1))], axis=1)
    return origins, directions


def perspective(points, near):
    """Clip coordinates of the OpenGL frustum of the image with its far plane at infinity, divided by w."""
    right, top = near * WIDTH / (2 * FX), near * HEIGHT / (2 * FY)
    matrix = np.array([[near / right, 0, 0, 0], [0, near / top, 0, 0], [0, 0, -1, -2 * near], [0, 0, -1, 0]])
    clip = np.concatenate([points, np.ones((len(points), 1))], axis=1) @ matrix.T
    return clip[:, :3] / clip[:, 3:]


def ndc_of(origins, directions, near):
    scale = (2 * FX / WIDTH, 2 * FY / HEIGHT)
    o, d = to_ndc(torch.tensor(origins), torch.tensor(directions), scale, near)
    return o.numpy(), d.numpy()


@pytest.mark.parametrize("near", [1.0, 0.7])
@pytest.mark.parametrize("depth", [1.0, 1.5, 4.0, 60.0])
def test_ndc_rays_hold_the_projections_of_the_rays_points(near, depth):
    origins, directions = forward_facing_rays()
    ndc_origins, ndc_directions = ndc_of(origins, directions, near)
    points = origins + ((-depth - origins[:, 2]) / directions[:, 2])[:, None] * directions  # on the plane z = -depth
    expected = perspective(points, near)
    t = (expected[:, 2:] + 1) / 2  # the frustum's depth runs from -1 to 1
    np.testing.assert_allclose(ndc_origins + t * ndc_directions, expected, atol=1e-5)


def test_in_ndc_t_runs_from_the_near_plane_to_infinity():
    origins, directions = forward_facing_rays()
    ndc_origins, ndc_directions = ndc_of(origins, directions, near=1.0)
    at_near = origins + ((-1 - origins[:, 2]) / directions[:, 2])[:, None] * directions
    np.testing.assert_allclose(ndc_origins, perspective(at_near, 1.0), atol=1e-12)
    np.testing.assert_allclose(ndc_origins[:, 2], -1, atol=1e-12)
    far_away = origins + 1e8 * directions
    np.testing.assert_allclose(ndc_origins + ndc_directions, perspective(far_away, 1.0), atol=1e-5)


@pytest.mark.parametrize("part", [slice(None), [1, 0]])
@pytest.mark.parametrize("of_the_scene", [False, True])
def test_views_of_different_focal_lengths_see_a_point_at_one_place_of_ndc(part, of_the_scene):
    """Two cameras see one point of the world, each in the middle of a pixel; where it is in NDC is by hand."""
    point, centre = np.array([0.4, -0.3, -5.0]), np.array([1.1, 0.2, 0.3])
    turned = np.concatenate([rotation(8, 1), centre[:, None]], axis=1)
    x, y, z = turned[:, :3].T @ (point - centre)
    lenses = [
        [FX, FY, 6.5 - FX * 0.4 / 5, 2.5 - FY * 0.3 / 5],  # the point is in row 2, column 6 of the first view
        [1.7 * FX, 2.5 * FY, 3.5 - 1.7 * FX * x / -z, 4.5 + 2.5 * FY * y / -z],  # and in row 4, column 3 of the other
    ]
    poses = torch.tensor(np.stack([np.eye(3, 4), turned]))
    cameras = Cameras(poses, torch.tensor(lenses, dtype=torch.float64), WIDTH, HEIGHT)
    if of_the_scene:
        wide = Cameras(poses, torch.tensor([[FX, FY, 5, 3]] * 2, dtype=torch.float64), WIDTH, HEIGHT)
        cameras = replace(cameras, ndc_scale=wide.widest())
    expected = perspective(point[None], near=1.0)[0]
    order = [1, 0] if part == [1, 0] else [0, 1]
    for view, row, column in zip(range(2), *([v[i] for i in order] for v in ([2, 4], [6, 3])), strict=True):
        rays = one(cameras[part], view, row, column, ndc=True)
        t = (expected[2] + 1) / 2
        np.testing.assert_allclose((rays.origins + t * rays.directions)[0], expected, atol=1e-12)
    if of_the_scene:  # a part of the scene's cameras has the scene's NDC
        rays = one(cameras[1].resized(2 * WIDTH, 2 * HEIGHT).with_poses(poses[1:]), 0, 9, 7, ndc=True)
        whole = one(cameras.resized(2 * WIDTH, 2 * HEIGHT), 1, 9, 7, ndc=True)
        np.testing.assert_allclose(rays.origins, whole.origins, atol=1e-12)
        np.testing.assert_allclose(rays.directions, whole.directions, atol=1e-12)


@pytest.mark.parametrize(
    ("origin", "direction", "near", "far"),
    [
        ([-3.0, 0.5, 0.5], [1.0, 0.0, 0.0], 3.0, 4.0),  # along an axis
        ([-3.0, 0.5, 0.5], [0.5, 0.0, 0.0], 6.0, 8.0),  # t counts in lengths of the direction
        ([5.0, 0.5, 0.5], [-1.0, 0.0, 0.0], 4.0, 5.0),  # from the other side
        ([0.5, 0.5, 0.5], [0.0, 0.0, 1.0], 0.25, 0.5),  # from inside, beyond near
        ([-9.5, 0.5, 0.5], [1.0, 0.0, 0.0], 9.5, 10.0),  # up to far only
        ([-3.0, 1.5, 0.5], [1.0, 0.0, 0.0], 0.25, 0.25),  # passes beside it
        ([-30.0, 0.5, 0.5], [1.0, 0.0, 0.0], 0.25, 0.25),  # beyond far
        ([3.0, 0.5, 0.5], [1.0, 0.0, 0.0], 0.25, 0.25),  # behind the ray
    ],
)
def test_rays_are_clipped_to_a_box(origin, direction, near, far):
    d = torch.tensor([direction])
    rays = Rays(torch.tensor([origin]), d, d, torch.tensor([0.25]), torch.tensor([10.0]))
    clipped = rays.clipped(torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]))
    assert (clipped.near.item(), clipped.far.item()) == pytest.approx((near, far))


def test_points_of_a_ray_are_in_the_box_exactly_between_its_clipped_ends():
    generator = torch.Generator().manual_seed(0)
    o, d = (torch.randn(300, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    low, high = torch.tensor([-1.0, -0.5, -0.8], dtype=torch.float64), torch.tensor([0.6, 1.0, 0.7]).double()
    near, far = (torch.full((300,), t, dtype=torch.float64) for t in (0.1, 3.0))
    clipped = Rays(o, d, d, near, far).clipped(torch.stack([low, high]))
    t = torch.linspace(0.1, 3.0, 101, dtype=torch.float64)
    points = o[:, None] + t[:, None] * d[:, None]
    inside = ((points > low) & (points < high)).all(-1)
    between = (t > clipped.near[:, None]) & (t < clipped.far[:, None])
    between |= (t == t[0]) & (clipped.near[:, None] == near[:, None]) & (clipped.far > clipped.near)[:, None]
    between |= (t == t[-1]) & (clipped.far[:, None] == far[:, None]) & (clipped.far > clipped.near)[:, None]
    assert 20 < inside.any(-1).sum() < 280
    assert torch.equal(inside, between)
