"""Placement of captures: similarities by hand, synthetic captures in an arbitrary world, and the real lego and fern."""

import json
import math

import numpy as np
import pytest
import torch

from nerf_dfa.scenes.llff import load_llff
from nerf_dfa.scenes.paths import look_at
from nerf_dfa.scenes.placement import World, centred, depth_bounds, facing, fronted, placed, unchanged, upward

DOUBLE = torch.float64


def vector(*values):
    return torch.tensor(values, dtype=DOUBLE)


def around(count=24, radius=5.0, elevation=40.0, wobble=0.0):
    """Cameras on a level ring, or with a wobble of their elevation, that look at the origin."""
    poses = []
    for i in range(count):
        azimuth, height = 2 * math.pi * i / count, math.radians(elevation + wobble * math.sin(5 * i))
        direction = vector(math.cos(azimuth) * math.cos(height), math.sin(azimuth) * math.cos(height), math.sin(height))
        poses.append(look_at(radius * direction, vector(0, 0, 0), vector(0, 0, 1)))
    return torch.stack(poses)


def arc(degrees, count=21, radius=5.0):
    """Cameras on a horizontal arc of `degrees` to each side that look at the origin; radius < 0: outwards."""
    poses = []
    for angle in np.radians(np.linspace(-degrees, degrees, count)):
        centre = abs(radius) * vector(math.sin(angle), -math.cos(angle), 0)
        poses.append(look_at(centre, centre * (0 if radius > 0 else 2), vector(0, 0, 1)))
    return torch.stack(poses)


def moved(poses, scale=1.0):
    """The same cameras in a world that is turned, moved and scaled, and the similarity as 4 x 4 matrix in NumPy."""
    k = np.array([[0, -3, 2], [3, 0, -1], [-2, 1, 0]]) / math.sqrt(14)
    turn = np.eye(3) + math.sin(2.2) * k + (1 - math.cos(2.2)) * k @ k
    shift = np.array([30.0, -7.0, 11.0])
    centres = scale * poses[:, :, 3].numpy() @ turn.T + shift
    axes = turn @ poses[:, :, :3].numpy()
    return torch.tensor(np.concatenate([axes, centres[:, :, None]], axis=-1)), turn, shift


def test_a_world_is_the_similarity_that_it_says():
    _, turn, shift = moved(around())
    world = World(torch.tensor(turn), torch.tensor(shift), 0.25)
    points = torch.randn(10, 3)
    expected = [0.25 * turn @ (p - shift) for p in points.double().numpy()]
    np.testing.assert_allclose(world.points(points), expected, atol=1e-12)
    assert world.points(points).dtype == DOUBLE
    poses = around()
    found = world.poses(poses)
    np.testing.assert_allclose(found[:, :, 3], world.points(poses[:, :, 3]), atol=1e-12)
    np.testing.assert_allclose(found[3, :, :3], turn @ poses[3, :, :3].numpy(), atol=1e-12)
    assert torch.equal(unchanged().poses(poses), poses)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 300.0])
def test_a_capture_from_around_is_found_wherever_it_is(scale):
    poses = around(wobble=15.0)
    away, turn, shift = moved(poses, scale)
    world = centred(away)
    np.testing.assert_allclose(world.origin, shift, atol=1e-9 * scale)
    assert world.scale == pytest.approx(4 / (5 * scale))
    found = world.poses(away)
    assert found[:, :, 3].square().sum(-1).mean().sqrt().item() == pytest.approx(4)
    np.testing.assert_allclose(world.rotation.numpy() @ turn @ [0, 0, 1], [0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(found[:, :, :3].mT @ found[:, :, :3], torch.eye(3).expand(24, 3, 3), atol=1e-12)
    assert (torch.linalg.det(found[:, :, :3]) > 0).all()
    # What is left free is the turn about +z.
    heights = found[:, 2, 3]
    np.testing.assert_allclose(heights, centred(poses).poses(poses)[:, 2, 3], atol=1e-9)


def test_an_upright_ring_is_not_turned_and_one_upside_down_is():
    world = centred(around())
    np.testing.assert_allclose(world.rotation, torch.eye(3), atol=1e-12)
    over = torch.diag(vector(1, -1, -1))
    poses = around()
    world = centred(torch.cat([over @ poses[:, :, :3], over @ poses[:, :, 3:]], dim=-1))
    assert (world.rotation @ vector(0, 0, -1)).tolist() == pytest.approx([0, 0, 1])
    assert torch.linalg.det(world.rotation).item() == pytest.approx(1)


def degrees_between(a, b):
    return math.degrees(math.atan2(torch.linalg.cross(a, b).norm().item(), (a @ b).item()))


def patches(seed, count=60, roll=0.0, half_turn=math.pi):
    """Level cameras, more of them on one side, most of them high; with a roll of so many degrees (normal)."""
    generator = np.random.default_rng(seed)
    poses = []
    for _ in range(count):
        azimuth = half_turn * (2 * generator.random() ** 2 - 1)
        height = math.radians(generator.uniform(10, 85))
        direction = vector(math.cos(azimuth) * math.cos(height), math.sin(azimuth) * math.cos(height), math.sin(height))
        pose = look_at(3 * direction, 0.3 * torch.tensor(generator.normal(size=3)), vector(0, 0, 1))
        c, s = (f(math.radians(roll) * generator.normal()) for f in (math.cos, math.sin))
        poses.append(
            torch.cat([pose[:, :3] @ torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]]).double(), pose[:, 3:]], 1)
        )
    return torch.stack(poses)


@pytest.mark.parametrize("seed", range(3))
def test_up_is_found_of_cameras_that_stand_more_on_one_side(seed):
    for poses, most in ((patches(seed), 1e-6), (patches(seed, roll=2.0), 1.0), (patches(seed, half_turn=0.6), 1e-6)):
        away, turn, _ = moved(poses, 7.0)
        up = torch.tensor(turn) @ vector(0, 0, 1)
        assert degrees_between(upward(away), up) < most
        mean = torch.nn.functional.normalize(away[:, :, 1].mean(0), dim=0)
        assert degrees_between(mean, up) > 10  # what the mean of the up axes would be
        assert degrees_between(centred(away).rotation @ up, vector(0, 0, 1)) < most


def test_up_is_the_mean_where_right_axes_do_not_tell():
    def mean(poses):
        return torch.nn.functional.normalize(poses[:, :, 1].mean(0), dim=0)

    overhead = []  # in an arc over the top of what they look at: one right axis for all
    for a in np.linspace(-0.9, 0.7, 9):
        centre, up = vector(0, math.sin(a), math.cos(a)), vector(0, math.cos(a), -math.sin(a))
        overhead.append(look_at(centre, vector(0, 0, 0), up))
    overhead = torch.stack(overhead)
    assert (overhead[:, :, 0] - overhead[0, :, 0]).abs().max() < 1e-12
    torch.testing.assert_close(upward(overhead), mean(overhead))
    rolled = patches(0, roll=50.0)
    torch.testing.assert_close(upward(rolled), mean(rolled))
    narrow = arc(4)  # a little roll in it would turn the direction a lot
    torch.testing.assert_close(upward(narrow), mean(narrow))


def test_degenerate_captures_have_no_centre():
    poses = around()
    parallel = poses[:1].repeat(5, 1, 1)
    parallel[:, 0, 3] += torch.arange(5)
    with pytest.raises(ValueError, match="parallel"):
        centred(parallel)
    at_one_point = poses.clone()
    at_one_point[:, :, 3] = vector(3, 4, 5)
    with pytest.raises(ValueError, match="one point"):
        centred(at_one_point)
    half_upside_down = around(elevation=0.0)
    half_upside_down[::2, :, :2] *= -1
    with pytest.raises(ValueError, match="up axes"):
        centred(half_upside_down)


@pytest.mark.parametrize(
    ("poses", "expected"),
    [
        (around(), "around"),
        (around(elevation=0.0), "around"),
        (around(elevation=65.0), "around"),  # a drone's ring: the axes are within 25 degrees of the vertical
        (arc(15), "forward"),
        (arc(25), "forward"),
        (arc(60), "around"),
        (arc(40, radius=-5.0), "forward"),  # outwards from one point, as a panorama of a wall
        (arc(170, radius=-5.0), "around"),
        (arc(0), "forward"),
    ],
)
def test_facing(poses, expected):
    assert facing(poses) == expected
    assert facing(moved(poses, 40.0)[0]) == expected


def test_forward_facing_cameras_are_seen_from_their_average():
    poses = arc(15)
    away, _, _ = moved(poses, 7.0)
    world = fronted(away)
    found = world.poses(away)
    np.testing.assert_allclose(found[:, :, 3].mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(found[10, :, :3], torch.eye(3), atol=1e-9)
    assert (found[0, 0, 3] < 0 < found[-1, 0, 3]).item()
    # The axes meet at a depth of 5 in the middle camera and in all others; the unit is that depth.
    assert 1 / world.scale == pytest.approx(5 * 7.0)
    assert torch.equal(placed(away).rotation, world.rotation)
    assert torch.equal(placed(around()).rotation, centred(around()).rotation)


def test_the_unit_of_cameras_whose_axes_do_not_meet_is_their_spread():
    poses = torch.eye(3, 4, dtype=DOUBLE).repeat(4, 1, 1)
    poses[:, :2, 3] = torch.tensor([[3.0, 4], [3, -4], [-3, 4], [-3, -4]])
    assert fronted(poses).scale == pytest.approx(1 / 5)
    assert fronted(poses[:1]).scale == 1
    with pytest.raises(ValueError, match="do not meet"):
        depth_bounds(poses)


def test_bounds_of_points_against_a_loop():
    generator = np.random.default_rng(0)
    poses, _, _ = moved(around(wobble=15.0))
    _, turn, shift = moved(around())
    points = generator.normal(size=(300, 3)) * [1.0, 1.0, 0.3] @ turn.T + shift
    depths = []
    for pose in poses.numpy():
        for point in points:
            x, y, z = pose[:, :3].T @ (point - pose[:, 3])
            if -z > 0 and math.hypot(x, y) <= -z:
                depths.append(-z)
    low, high = np.quantile(depths, [0.005, 0.995])
    near, far = depth_bounds(poses, torch.tensor(points))
    assert (near, far) == pytest.approx((low / 1.1, high * 1.1))


def test_bounds_of_points_stand_a_few_wild_ones():
    poses = around()
    points = torch.randn(5000, 3, dtype=DOUBLE).clamp(-2, 2)
    wild = torch.cat([points, 1e6 * torch.randn(8, 3, dtype=DOUBLE)])
    plain, robust = depth_bounds(poses, points), depth_bounds(poses, wild)
    assert robust == pytest.approx(plain, rel=0.05)
    with pytest.raises(ValueError, match="none of the points"):
        depth_bounds(poses[:1], 3 * poses[:1, :, 3])


def test_many_points_are_thinned():
    poses, points = around(), torch.randn(300_000, 3, dtype=DOUBLE)
    few = depth_bounds(poses, points[:20_000])
    assert depth_bounds(poses, points) == pytest.approx(few, rel=0.03)


def test_bounds_without_points():
    assert depth_bounds(around(radius=4.0)) == pytest.approx((2, 6))
    assert depth_bounds(arc(15)) == pytest.approx((0.4 * 5, 4 * 5))
    with pytest.raises(ValueError, match="outwards"):
        depth_bounds(arc(170, radius=-5.0))


def test_lego(data):
    root = data / "nerf_synthetic" / "lego"
    if not root.is_dir():
        pytest.skip(f"no lego scene at {root}")
    for split in ("train", "test"):
        frames = json.loads((root / f"transforms_{split}.json").read_text())["frames"]
        poses = torch.tensor([frame["transform_matrix"][:3] for frame in frames], dtype=DOUBLE)
        assert facing(poses) == "around"
        world = centred(poses)
        np.testing.assert_allclose(world.origin, 0, atol=1e-5)
        assert world.scale == pytest.approx(1, abs=0.01)  # and at the distance that other captures are given
        assert degrees_between(upward(poses), vector(0, 0, 1)) < 0.01  # it is upright already
        assert world.rotation[2, 2].item() > math.cos(math.radians(0.01))
        assert depth_bounds(poses) == pytest.approx((2, 6), abs=0.05)


def test_fern(data):
    root = data / "nerf_llff_data" / "fern"
    if not root.is_dir():
        pytest.skip(f"no fern scene at {root}")
    scene = load_llff(root)
    assert facing(scene.cameras.poses) == "forward"
    near, far = depth_bounds(scene.cameras.poses)
    assert near < scene.depth_range[0] < scene.depth_range[1] < far
    world = fronted(scene.cameras.poses)
    np.testing.assert_allclose(world.rotation, torch.eye(3), atol=1e-5)  # as the loader of LLFF has centred it
    np.testing.assert_allclose(world.origin, 0, atol=1e-5)
