"""Camera paths: where the cameras stand and look, against geometry done by hand and NeRF's formulas in NumPy."""

import math

import numpy as np
import pytest
import torch

from nerf_dfa.errors import UserError
from nerf_dfa.rendering.cameras import Cameras
from nerf_dfa.scenes.paths import (
    average_pose,
    circle_path,
    default_path,
    focus_depth,
    is_forward_facing,
    look_at,
    make_path,
    nearest_to_axes,
    spiral_path,
)
from nerf_dfa.scenes.scene import Scene

UP = (0.0, 0.0, 1.0)


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


def orbit(count=8, radius=4.0, elevation=30.0, target=(1.0, 2.0, 0.5)):
    """Cameras at random azimuths around a target, all at one distance and height."""
    target, elevation = vector(*target), math.radians(elevation)
    generator = torch.Generator().manual_seed(0)
    poses = []
    for angle in 2 * math.pi * torch.rand(count, generator=generator, dtype=torch.float64):
        offset = radius * vector(
            math.cos(angle) * math.cos(elevation), math.sin(angle) * math.cos(elevation), math.sin(elevation)
        )
        poses.append(look_at(target + offset, target, vector(*UP)))
    return torch.stack(poses)


def wall(count=11):
    """Forward-facing cameras: all look almost along -z, from a patch of the plane z = 0."""
    generator = torch.Generator().manual_seed(1)
    spread = vector(1.0, 0.5, 0.1)
    centres = torch.randn(count, 3, generator=generator, dtype=torch.float64) * spread
    return torch.stack([look_at(c, vector(*c[:2], -20.0), vector(0, 1, 0)) for c in centres])


def to_scene(poses, test=(), **keys):
    poses = poses.float()
    count = len(poses)
    cameras = Cameras(poses, torch.tensor([[2.0, 2.0, 1.0, 1.0]]).expand(count, 4), 2, 2)
    split = {"train": tuple(i for i in range(count) if i not in test), "val": (), "test": tuple(test)}
    return Scene(
        name="toy",
        images=torch.zeros(count, 2, 2, 3, dtype=torch.uint8),
        cameras=cameras,
        names=tuple(f"{i}.png" for i in range(count)),
        split=split,
        **{"near": 2.0, "far": 6.0, **keys},
    )


def assert_rotations(poses):
    rotation = poses[:, :, :3]
    assert torch.allclose(rotation.mT @ rotation, torch.eye(3, dtype=poses.dtype).expand_as(rotation), atol=1e-5)
    assert torch.allclose(torch.linalg.det(rotation), torch.ones(len(poses), dtype=poses.dtype), atol=1e-5)


def assert_looks_at(poses, target):
    """The target is straight ahead: in each camera's frame at (0, 0, -distance)."""
    offset = target - poses[:, :, 3]
    local = (poses[:, :, :3].mT @ offset[:, :, None])[:, :, 0]
    assert local[:, :2].abs().max() < 1e-5
    assert (local[:, 2] < 0).all()


def test_look_at():
    # From (3, 0, 0) towards the origin, upright: right is +y, up +z, backwards +x.
    expected = torch.tensor([[0, 0, 1, 3], [1, 0, 0, 0], [0, 1, 0, 0]], dtype=torch.float64)
    assert torch.allclose(look_at(vector(3, 0, 0), vector(0, 0, 0), vector(0, 0, 1)), expected)
    # `up` need not be level with the image
    assert torch.allclose(look_at(vector(3, 0, 0), vector(0, 0, 0), vector(-5, 0, 2)), expected)


@pytest.mark.parametrize("centre", [(0, 0, 5), (0, 0, 0)])
def test_look_at_needs_an_upright_image(centre):
    with pytest.raises(ValueError, match="upright"):
        look_at(vector(*centre), vector(0, 0, 0), vector(0, 0, 1))


def test_nearest_to_axes_finds_where_they_cross():
    assert torch.allclose(nearest_to_axes(orbit()), vector(1, 2, 0.5), atol=1e-9)


def test_nearest_to_axes_minimises_the_squared_distances():
    poses = wall()

    def cost(point):
        offset = point - poses[:, :, 3]
        return torch.linalg.cross(offset, poses[:, :, 2]).square().sum()  # |z| = 1

    point = nearest_to_axes(poses).requires_grad_()
    (slope,) = torch.autograd.grad(cost(point), point)
    assert slope.abs().max() < 1e-6


def test_nearest_to_parallel_axes_is_finite():
    pose = look_at(vector(1, 2, 3), vector(1, 2, 0), vector(0, 1, 0))
    assert torch.allclose(nearest_to_axes(pose.expand(4, 3, 4)), vector(1, 2, 0))


def test_average_pose_of_mirrored_pairs_is_the_one_between():
    middle = look_at(vector(0, 0, 5), vector(0, 0, 0), vector(0, 1, 0))
    left, right = (look_at(vector(x, 0, 5), vector(0, 0, 0), vector(0, 1, 0)) for x in (-2, 2))
    assert torch.allclose(average_pose(torch.stack([left, right])), middle)


def test_average_of_opposite_views_is_refused():
    pair = [look_at(vector(x, 0, 0), vector(0, 0, 0), vector(0, 0, 1)) for x in (-2, 2)]
    with pytest.raises(ValueError, match="all ways"):
        average_pose(torch.stack(pair))


@pytest.mark.parametrize("up", [UP, (0.0, 2.0, 0.0), (0.3, -0.5, 0.8)])
def test_circle_goes_round_what_the_cameras_look_at(up):
    # The same capture, turned so that its up is `up`.
    turn = look_at(vector(*up), vector(0, 0, 0), vector(1, 0.1, 0))[:, :3]
    path = circle_path(turn @ orbit(), up, 12)
    target, axis = turn @ vector(1, 2, 0.5), turn[:, 2]
    assert_rotations(path)
    assert_looks_at(path, target)
    offsets = path[:, :, 3] - target
    assert torch.allclose(offsets.norm(dim=1), torch.full((12,), 4.0, dtype=torch.float64))
    assert torch.allclose(offsets @ axis, torch.full((12,), 4 * math.sin(math.radians(30)), dtype=torch.float64))
    assert ((path[:, :, 1] @ axis) > 0.8).all()  # cos 30 degrees: the images are upright
    # Closed and even: every frame, the first after the last too, is the one before turned by 30 degrees about up.
    level = offsets - (offsets @ axis)[:, None] * axis
    after = level.roll(-1, 0)
    assert torch.allclose(
        (level * after).sum(1) / level.square().sum(1), torch.full((12,), math.cos(math.pi / 6), dtype=torch.float64)
    )
    assert (torch.linalg.cross(level, after) @ axis > 0).all()  # counter-clockwise


def test_circle_takes_the_medians():
    poses = torch.cat([orbit(4, radius=3.0, elevation=20), orbit(3, radius=4.0, elevation=30), orbit(4, 9.0, 60.0)])
    offsets = circle_path(poses, UP, 5)[:, :, 3] - vector(1, 2, 0.5)
    assert offsets.norm(dim=1).tolist() == pytest.approx([4.0] * 5)
    assert (offsets[:, 2] / 4).tolist() == pytest.approx([0.5] * 5)


def test_circle_needs_cameras_apart():
    centre = vector(1, 1, 1)
    poses = [look_at(centre, centre + vector(math.cos(a), math.sin(a), 0), vector(*UP)) for a in range(6)]
    with pytest.raises(UserError, match="one point"):
        circle_path(torch.stack(poses), UP, 4)


def test_focus_depth():
    # A quarter of the disparity of 0.9 near and three quarters of that of 5 far.
    assert focus_depth((1.0, 4.0)) == pytest.approx(1 / (0.25 / 0.9 + 0.75 / 20))
    assert focus_depth((1.0, math.inf)) == pytest.approx(3.6)
    assert focus_depth((0.0, 6.0)) == 3.0


def test_a_spiral_through_a_scene_that_begins_at_depth_0():
    path = make_path("spiral", to_scene(wall(), near=0.0, far=6.0), 6)
    average = average_pose(wall())
    assert_looks_at(path.double(), average[:, 3] - 3.0 * average[:, 2])


def test_spiral_is_that_of_nerf():
    """NeRF's loop over the angle, for cameras whose average is the identity, with matrices in homogeneous form."""
    poses = wall()
    average = average_pose(poses)
    rotation, centre = average[:, :3], average[:, 3:]
    poses = rotation.T @ torch.cat([poses[:, :, :3], poses[:, :, 3:] - centre], dim=2)
    frames, near, far = 10, 1.5, 6.0
    radii = np.percentile(np.abs(poses[:, :, 3].numpy()), 90, axis=0)
    focus = 1 / (0.25 / (0.9 * near) + 0.75 / (5 * far))
    path = spiral_path(poses, (near, far), frames)
    assert_rotations(path)
    assert_looks_at(path, vector(0, 0, -focus))
    for theta, pose in zip(np.linspace(0, 2 * np.pi * 2, frames + 1)[:-1], path.numpy(), strict=True):
        place = np.array([np.cos(theta), -np.sin(theta), -np.sin(0.5 * theta)]) * radii
        z = place - [0, 0, -focus]
        z /= np.linalg.norm(z)
        x = np.cross([0, 1, 0], z)
        x /= np.linalg.norm(x)
        assert np.abs(pose - np.stack([x, np.cross(z, x), z, place], axis=1)).max() < 1e-9


def test_spiral_moves_with_the_world():
    turn = look_at(vector(1, 2, 3), vector(0, 0, 0), vector(0, 1, 0))[:, :3]
    poses, shift = wall(), vector(3, -1, 2)[:, None]
    moved = turn @ torch.cat([poses[:, :, :3], poses[:, :, 3:] + shift], dim=2)
    expected = spiral_path(poses, (1.0, 5.0), 6)
    expected = turn @ torch.cat([expected[:, :, :3], expected[:, :, 3:] + shift], dim=2)
    assert torch.allclose(spiral_path(moved, (1.0, 5.0), 6), expected, atol=1e-9)


def test_forward_facing():
    assert is_forward_facing(wall())
    assert is_forward_facing(wall()[:1])
    assert not is_forward_facing(orbit())


def test_default_path_suits_the_capture():
    assert default_path(to_scene(orbit())) == "circle"
    assert default_path(to_scene(wall())) == "spiral"
    assert default_path(to_scene(orbit(), near=0.0, far=1.0, ndc=True)) == "spiral"


def test_make_path_follows_the_training_views():
    """Two stray test views, far outside, change neither circle nor spiral."""
    for capture, names in ((orbit(), ["circle"]), (wall(), ["circle", "spiral"])):
        stray = look_at(vector(100, 50, 70), vector(0, 90, 0), vector(*UP)).expand(2, 3, 4)
        alone, with_stray = (
            to_scene(capture),
            to_scene(torch.cat([capture, stray]), test=[len(capture), len(capture) + 1]),
        )
        for name in names:
            expected = make_path(name, alone, 7)
            assert expected.shape == (7, 3, 4)
            assert expected.dtype == torch.float32
            assert torch.equal(make_path(name, with_stray, 7), expected)


def test_circle_before_a_forward_facing_scene_stays_in_its_plane():
    poses = wall()
    path = make_path("circle", to_scene(poses, depth_range=(2.0, 8.0), near=0.0, far=1.0, ndc=True), 8)
    average = average_pose(poses).float()
    local = (path[:, :, 3] - average[:, 3]) @ average[:, :3]
    assert local[:, 2].abs().max() < 1e-5
    assert (local.abs() <= (poses[:, :, 3] - poses[:, :, 3].mean(0)).abs().amax(0) + 0.1).all()
    assert torch.allclose(local.mean(0), torch.zeros(3), atol=1e-5)  # once around
    assert_rotations(path)
    assert_looks_at(path, average[:, 3] - focus_depth((2.0, 8.0)) * average[:, 2])


def test_spiral_of_an_ndc_scene_of_unknown_depth():
    poses = wall()
    path = make_path("spiral", to_scene(poses, near=0.0, far=1.0, ndc=True), 4)
    average = average_pose(poses).float()
    assert_looks_at(path, average[:, 3] - 3.6 * average[:, 2])


def test_test_path_is_the_test_views():
    poses = orbit()
    assert torch.equal(make_path("test", to_scene(poses, test=[2, 5, 7]), 99), poses[[2, 5, 7]].float())


@pytest.mark.parametrize(
    ("name", "frames", "words"),
    [
        ("zigzag", 4, ["zigzag", "circle, spiral, test"]),
        ("circle", 0, ["frame", "not 0"]),
        ("circle", -1, ["frame", "not -1"]),
        ("spiral", 4, ["toy", "all around"]),
        ("test", 4, ["toy", "no test views"]),
    ],
)
def test_impossible_paths_are_refused(name, frames, words):
    with pytest.raises(UserError) as error:
        make_path(name, to_scene(orbit()), frames)
    message = str(error.value)
    assert "\n" not in message
    assert all(word in message for word in words)


def test_spiral_needs_an_average_view():
    ring = [look_at(vector(x, y, 0), vector(0, 0, 0), vector(*UP)) for x, y in ((1, 0), (0, 1), (-1, 0), (0, -1))]
    with pytest.raises(UserError, match=r"^toy was captured from all around, .* choose the path circle$"):
        make_path("spiral", to_scene(torch.stack(ring)), 4)
