"""The demo scene against float64 geometry that is written here a second time, in another way."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from scenes.geometry import entries, outside, random_rays

from nerf_dfa.errors import UserError
from nerf_dfa.scenes import procedural
from nerf_dfa.scenes.procedural import (
    CAMERA_ANGLE_X,
    CAMERA_RADIUS,
    ELEVATIONS,
    FAR,
    NEAR,
    REACH,
    SPLIT_PHASES,
    encode_srgb,
    light_directions,
    look_at_origin,
    pixel_offsets,
    pixel_rays,
    radiance,
    render_view,
    spiral_poses,
    write_demo,
)
from nerf_dfa.scenes.solids import GROUND, GROUND_Z, SOLIDS, STANDING


def camera_above(x, y):
    """A camera at height CAMERA_RADIUS that looks straight down at (x, y), its right along the world's x."""
    return torch.tensor([[1.0, 0.0, 0.0, x], [0.0, 1.0, 0.0, y], [0.0, 0.0, 1.0, CAMERA_RADIUS]])


def world_points(pose, depth):
    """Surface points [n, 3] of a depth map's hit pixels, by the pinhole formula in float64."""
    size = depth.shape[0]
    focal = size / (2 * math.tan(CAMERA_ANGLE_X / 2))
    row, col = np.nonzero(depth.numpy())
    z = depth.numpy().astype(np.float64)[row, col]
    in_camera = np.stack([(col + 0.5 - size / 2) / focal * z, (size / 2 - row - 0.5) / focal * z, -z], -1)
    pose = pose.double().numpy()
    return in_camera @ pose[:, :3].T + pose[:, 3]


def test_encode_srgb():
    values = [0.0, 0.001, 0.0031308, 0.02, 0.214041, 1.0]
    curve = [12.92 * v if v <= 0.0031308 else 1.055 * v ** (1 / 2.4) - 0.055 for v in values]
    torch.testing.assert_close(encode_srgb(torch.tensor(values)), torch.tensor(curve), atol=1e-6, rtol=0)
    assert curve[4] == pytest.approx(0.5, abs=1e-5)


def test_depth_straight_above_known_places():
    angle, size = 0.02, 5
    for (x, y), height in [
        ((0.8, -0.5), GROUND_Z),
        ((-0.42, -0.28), GROUND_Z + 0.8),  # top of the blue sphere
        ((0.50, 0.12), GROUND_Z + 0.6 + 0.38),  # golden sphere on the box
        ((-0.12, 0.58), GROUND_Z + 0.9),  # tip of the cone
        ((-0.78, 0.30), GROUND_Z + 0.4),  # lid of the cylinder
    ]:
        rgba, depth = render_view(camera_above(x, y), angle, size)
        assert depth[2, 2].item() == pytest.approx(CAMERA_RADIUS - height, abs=2e-5)
        assert torch.all(rgba[..., 3] == 255)
    # Of a floor, depth along the axis is the same everywhere; distance along the rays is not.
    _, depth = render_view(camera_above(0.8, -0.5), angle, size)
    torch.testing.assert_close(depth, torch.full((size, size), CAMERA_RADIUS - GROUND_Z), atol=2e-6, rtol=0)


def test_colours_of_the_solids_from_above():
    def colour(x, y):
        rgba, _ = render_view(camera_above(x, y), 0.002, 1)
        return [int(value) for value in rgba[0, 0]]

    red = colour(0.22, -0.68)
    assert red[0] > 180
    assert max(red[1:3]) < 70
    blue = colour(-0.50, -0.10)
    assert blue[2] > 150
    assert blue[2] > 1.5 * max(blue[:2])
    green = colour(0.706, 0.233)
    assert green[1] > 130
    assert green[1] > 2 * max(green[0], green[2])
    light_tile, dark_tile = colour(0.39, -0.2), colour(0.65, -0.2)
    assert sum(light_tile[:3]) > 1.5 * sum(dark_tile[:3])


def test_alpha_is_the_share_of_samples_and_colour_their_mean():
    pose, size, samples = spiral_poses(10, 5.4)[4], 40, 9
    rgba, depth = render_view(pose, CAMERA_ANGLE_X, size, samples)
    alpha = rgba[..., 3].long()
    corners = [alpha[i, j].item() for i in (0, -1) for j in (0, -1)]
    assert corners == [0, 0, 0, 0]
    assert alpha[size // 2 + 2, size // 2] == 255
    assert torch.all(rgba[alpha == 0] == 0)
    assert set(alpha.unique().tolist()) <= {math.floor(255 * k / samples + 0.5) for k in range(samples + 1)}
    assert torch.all(depth[alpha == 255] > 0)
    edges = ((alpha > 0) & (alpha < 255)).flatten().nonzero()[:, 0]
    assert len(edges) > 30
    rays = pixel_rays(pose, CAMERA_ANGLE_X, size, edges, pixel_offsets(samples))
    d = (rays / rays.norm(dim=0)).flatten(1)
    light = light_directions(samples).repeat_interleave(len(edges), dim=1)
    colours, hits = radiance(pose[:, 3:].expand_as(d), d, light, bounces=1)
    for k, edge in enumerate(edges):
        colour, hit = colours[:, k :: len(edges)], hits[k :: len(edges)]
        mean = colour.double().clamp(0, 1)[:, hit].sum(1) / hit.sum()
        curve = np.where(mean <= 0.0031308, 12.92 * mean, 1.055 * mean ** (1 / 2.4) - 0.055)
        assert alpha[edge // size, edge % size] == round(255 * hit.double().mean().item())
        assert np.all(abs(rgba[edge // size, edge % size, :3].numpy() - 255 * curve) < 0.51)


def test_mirror_shows_the_sky_and_its_neighbours():
    blue = STANDING[1]
    place = torch.tensor(blue.centre)[:, None] + torch.tensor([[0.0], [0.0], [blue.radius]])
    down = torch.tensor([[0.0], [0.0], [-1.0]])
    light = torch.tensor([[0.0], [1.0], [0.0]])  # grazes the top: neither diffuse light nor highlight
    matt, _ = radiance(place - down, down, light, bounces=0)
    glossy, _ = radiance(place - down, down, light, bounces=1)
    zenith = torch.tensor(procedural.SKY_ZENITH)[:, None]
    expected = matt * (1 - 0.08) + 0.08 * zenith  # Schlick at normal incidence leaves the mirror's own 0.08
    torch.testing.assert_close(glossy, expected, atol=1e-4, rtol=0)


def test_scene_lies_within_reach_near_and_far():
    for solid in SOLIDS:
        o, d = random_rays(2000, solid.centre, 0.9 * solid.bound, seed=5)
        t = entries(solid, o, d)
        points = (o + t * d)[:, t.isfinite()]
        assert points.norm(dim=0).max() < REACH
    for pose in spiral_poses(8, SPLIT_PHASES["test"]):
        _, depth = render_view(pose, CAMERA_ANGLE_X, 40, samples=1)
        seen = depth[depth > 0]
        assert seen.min() > NEAR
        assert seen.max() < FAR
    assert 0 < NEAR < CAMERA_RADIUS - REACH < CAMERA_RADIUS + REACH < FAR


def test_solids_stand_on_the_ground_and_apart():
    top = GROUND.centre[2] + GROUND.half
    assert top == pytest.approx(GROUND_Z)
    rng = np.random.default_rng(6)
    points = rng.uniform(-REACH, REACH, (200_000, 3))
    count = sum((outside(solid, points) < 0).astype(int) for solid in SOLIDS)
    assert count.max() == 1


def test_depth_maps_of_different_cameras_show_the_same_solids():
    """Turned or mirrored pictures fail here: unprojected pixels must lie on surfaces given in the world."""
    for pose in spiral_poses(5, 1.2):
        _, depth = render_view(pose, CAMERA_ANGLE_X, 48, samples=1)
        points = world_points(pose, depth)
        assert len(points) > 300
        distance = np.min([outside(solid, points) for solid in SOLIDS], axis=0)
        assert abs(distance).max() < 1e-5


def test_poses_are_upright_rotations_that_look_at_the_origin():
    poses = spiral_poses(60, 0.0).double()
    rotation, centre = poses[:, :, :3], poses[:, :, 3]
    eye = torch.eye(3).double().expand(60, 3, 3)
    torch.testing.assert_close(rotation.transpose(1, 2) @ rotation, eye, atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(60).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(centre - CAMERA_RADIUS * rotation[:, :, 2], 0 * centre, atol=1e-6, rtol=0)
    assert rotation[:, 2, 0].abs().max() < 1e-6  # right is level
    assert rotation[:, 2, 1].min() > 0  # up points up
    elevation = torch.rad2deg(torch.asin(centre[:, 2] / CAMERA_RADIUS))
    assert ELEVATIONS[0] < elevation.min() < ELEVATIONS[0] + 2
    assert ELEVATIONS[1] - 4 < elevation.max() < ELEVATIONS[1]


def test_look_at_origin_by_hand():
    pose = look_at_origin(torch.tensor([[0.0], [-4.0], [0.0]]))[0]
    expected = [[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, -1.0, -4.0], [0.0, 1.0, 0.0, 0.0]]
    torch.testing.assert_close(pose, torch.tensor(expected))


def test_no_two_views_are_alike():
    counts = {"train": 60, "val": 5, "test": 10}
    centres = torch.cat([spiral_poses(n, SPLIT_PHASES[split])[:, :, 3] for split, n in counts.items()]).double()
    cosine = centres @ centres.T / CAMERA_RADIUS**2 - 2 * torch.eye(75)
    assert torch.rad2deg(torch.acos(cosine.max())) > 4


@pytest.fixture
def small():
    return {"image_size": 16, "train_views": 2, "val_views": 1, "test_views": 1}


def contents(root):
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_write_demo_stores_what_was_rendered(tmp_path, small):
    root = write_demo(tmp_path / "demo", **small)
    assert root == tmp_path / "demo"
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]
    names = {str(path) for path in contents(root)}
    pictures = {"train/r_0.png", "train/r_1.png", "val/r_0.png", "test/r_0.png"}
    depths = {"val/r_0_depth.npy", "test/r_0_depth.npy"}
    assert names == pictures | depths | {f"transforms_{split}.json" for split in SPLIT_PHASES}
    for split, count in [("train", 2), ("val", 1), ("test", 1)]:
        transforms = json.loads((root / f"transforms_{split}.json").read_text())
        assert transforms["camera_angle_x"] == CAMERA_ANGLE_X
        assert (transforms["near"], transforms["far"]) == (NEAR, FAR)
        assert len(transforms["frames"]) == count
        for frame, pose in zip(transforms["frames"], spiral_poses(count, SPLIT_PHASES[split]), strict=True):
            matrix = torch.tensor(frame["transform_matrix"])
            assert torch.equal(matrix, torch.cat([pose, torch.tensor([[0.0, 0.0, 0.0, 1.0]])]))
            rgba, depth = render_view(matrix[:3], transforms["camera_angle_x"], 16)
            with Image.open(root / (frame["file_path"] + ".png")) as image:
                assert image.mode == "RGBA"
                np.testing.assert_array_equal(np.asarray(image), rgba.numpy())
            if split != "train":
                stored = np.load(root / (frame["file_path"] + "_depth.npy"))
                assert stored.dtype == np.float32
                np.testing.assert_array_equal(stored, depth.numpy())


def test_two_runs_write_the_same_bytes(tmp_path, small):
    first = contents(write_demo(tmp_path / "a", **small))
    assert first == contents(write_demo(str(tmp_path / "b"), **small))


def test_large_pictures_are_traced_in_bands(monkeypatch):
    pose = spiral_poses(3, 0.0)[1]
    whole = render_view(pose, CAMERA_ANGLE_X, 20)
    monkeypatch.setattr(procedural, "BAND", 77)
    parts = render_view(pose, CAMERA_ANGLE_X, 20)
    assert (whole[0].int() - parts[0].int()).abs().max() <= 1
    torch.testing.assert_close(whole[1], parts[1])


def test_complete_folder_is_left_alone(tmp_path, monkeypatch):
    for split in SPLIT_PHASES:
        (tmp_path / f"transforms_{split}.json").write_text("mine")
    monkeypatch.setattr(procedural, "render_view", None)  # calling it would fail
    before = contents(tmp_path)
    assert write_demo(tmp_path) == tmp_path
    assert contents(tmp_path) == before


def test_interrupted_write_leaves_nothing(tmp_path, monkeypatch, small):
    root, calls = tmp_path / "demo", []

    def interrupted(*arguments):
        # A kill at any moment of the rendering would find no root folder.
        assert not root.exists()
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return render_view(*arguments)

    monkeypatch.setattr(procedural, "render_view", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_demo(root, **small)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    root.mkdir()  # an empty folder is as good as none
    write_demo(root, **small)
    assert len(contents(root)) == 9


def test_mistakes_are_told_in_one_line(tmp_path, small):
    (tmp_path / "file").write_text("")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("")
    for root, words in [
        (tmp_path / "missing" / "demo", "No such file or directory"),
        (tmp_path / "file" / "demo", "Not a directory"),
        (tmp_path / "file", "not a demo scene"),
        (tmp_path / "other", "not a demo scene"),
    ]:
        with pytest.raises(UserError, match=words) as caught:
            write_demo(root, **small)
        assert str(root) in str(caught.value)
        assert "\n" not in str(caught.value)
    for name in small:
        with pytest.raises(UserError, match=f"{name} must be at least 1, not 0"):
            write_demo(tmp_path / "demo", **{**small, name: 0})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "other"]
