"""COLMAP models: both forms, poses, lenses, bounds, and damaged files. The writers are the tests' own."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scenes.colmap_models import (
    HEIGHT,
    LENSES,
    WIDTH,
    around_poses,
    forward_poses,
    make,
    refused,
    rodrigues,
    write_binary,
    write_images,
    write_scene,
    write_text,
)

from nerf_dfa.rendering.distortion import project
from nerf_dfa.rendering.rays import camera_rays, image_rays
from nerf_dfa.scenes import load_scene
from nerf_dfa.scenes.colmap import load_colmap
from nerf_dfa.scenes.colmap_model import read_model
from nerf_dfa.scenes.llff import load_llff
from nerf_dfa.scenes.placement import depth_bounds


@pytest.fixture(scope="module")
def around():
    return make(around_poses())


@pytest.fixture(scope="module")
def forward():
    return make(forward_poses())


def test_text_and_binary_are_the_same(tmp_path, around):
    write_text(tmp_path / "text", *around)
    write_binary(tmp_path / "binary", *around)
    text, binary = read_model(tmp_path / "text"), read_model(tmp_path / "binary")
    assert text.cameras == binary.cameras
    assert torch.equal(text.points, binary.points)
    assert [image.name for image in text.images] == [f"photo_{i:02}.png" for i in range(10)]
    for a, b in zip(text.images, binary.images, strict=True):
        assert (a.name, a.camera) == (b.name, b.camera)
        assert torch.equal(a.pose, b.pose)
        assert np.array_equal(a.sees, b.sees)
    assert np.array_equal(binary.points.numpy(), np.array([place for _, place, _ in around[2]]))
    place = {number: row for row, (number, _, _) in enumerate(around[2])}
    for _, _, _, _, name, keypoints in around[1]:
        image = next(image for image in binary.images if image.name == name)
        assert image.sees.tolist() == [place[number] for _, _, number in keypoints if number >= 0]


def test_scenes_of_both_forms_have_the_same_rays(tmp_path, around):
    a = load_colmap(write_scene(tmp_path / "a", around, write_text), factor=1)
    b = load_colmap(write_scene(tmp_path / "b", around, write_binary), factor=1)
    assert torch.equal(a.cameras.poses, b.cameras.poses)
    assert torch.equal(a.cameras.intrinsics, b.cameras.intrinsics)
    assert (a.near, a.far, a.split, a.names) == (b.near, b.far, b.split, b.names)
    with Image.open(tmp_path / "a" / a.names[3]) as image:
        assert np.array_equal(a.images[3].numpy(), np.asarray(image))


def test_pose_against_rodrigues(tmp_path):
    """World-to-camera by 50 degrees about (1, 2, -1); its OpenGL axes are the rows of R: right, -down, -ahead."""
    axis = np.array([1.0, 2.0, -1.0]) / 6**0.5
    r, t = rodrigues(axis, 50), np.array([0.3, -0.2, 4.0])
    half = np.radians(25)
    cameras, images, points = make(around_poses())
    images[0][1:3] = [np.cos(half), *(np.sin(half) * axis)], t
    write_binary(tmp_path, cameras, images, points)
    model = read_model(tmp_path)
    pose = next(image.pose for image in model.images if image.name == images[0][4]).numpy()
    assert np.abs(pose[:, 0] - r[0]).max() < 1e-12
    assert np.abs(pose[:, 1] + r[1]).max() < 1e-12
    assert np.abs(pose[:, 2] + r[2]).max() < 1e-12
    assert np.abs(r @ pose[:, 3] + t).max() < 1e-12  # the centre is in the origin of the camera's frame


def to_scene(scene, images):
    """Model points to the scene's world: by the first camera's frame and the ratio of distances between centres."""
    images = sorted(images, key=lambda image: image[4])
    rotations = [quaternion_matrix(image[1]) for image in images]
    centres = np.array([-r.T @ image[2] for r, image in zip(rotations, images, strict=True)])
    poses = scene.cameras.poses.double().numpy()
    scale = np.linalg.norm(poses[1:, :, 3] - poses[0, :, 3]) / np.linalg.norm(centres[1:] - centres[0])
    turn = poses[0, :, :3] @ np.diag([1, -1, -1]) @ rotations[0]
    return lambda points: torch.from_numpy(scale * (points - centres[0]) @ turn.T + poses[0, :, 3])


def quaternion_matrix(q):
    """q v q* for the axes, by quaternion products."""

    def times(a, b):
        w, v = a[0] * b[0] - a[1:] @ b[1:], a[0] * b[1:] + b[0] * a[1:] + np.cross(a[1:], b[1:])
        return np.array([w, *v])

    q = np.array(q)
    return np.stack([times(times(q, np.array([0, *e])), q * [1, -1, -1, -1])[1:] for e in np.eye(3)], axis=1)


@pytest.mark.parametrize("lens", LENSES, ids=[name for name, _ in LENSES])
@pytest.mark.parametrize("poses", [around_poses, forward_poses])
def test_points_fall_on_their_observations(tmp_path, poses, lens):
    model = make(poses(), lens)
    scene = load_colmap(write_scene(tmp_path, model, write_text), factor=2)
    assert scene.images.shape == (len(model[1]), HEIGHT // 2, WIDTH // 2, 3)
    move = to_scene(scene, model[1])
    places = {number: place for number, place, _ in model[2]}
    count = 0
    for _, _, _, _, name, keypoints in model[1]:
        view = scene.names.index(f"images/{name}")
        seen = [(x, y, places[number]) for x, y, number in keypoints if number >= 0]
        points = move(np.array([place for _, _, place in seen])).float()
        pixels, depth = project(scene.cameras, torch.full((len(seen),), view), points)
        assert (depth > 0).all()
        assert np.abs(pixels.numpy() - np.array([[x / 2, y / 2] for x, y, _ in seen])).max() < 1e-3
        count += len(seen)
    assert count > 100


def depth_percentiles(model):
    places = {number: place for number, place, _ in model[2]}
    ranges = []
    for _, q, t, _, _, keypoints in model[1]:
        depths = [(quaternion_matrix(q) @ places[n] + t)[2] for _, _, n in keypoints if n >= 0]
        ranges.append(np.percentile(depths, [0.1, 99.9]))
    return np.min(ranges), np.max(ranges)


def test_forward_facing_captures(tmp_path, forward):
    root = write_scene(tmp_path, forward)
    scene = load_colmap(root, factor=1)
    low, high = depth_percentiles(forward)
    assert (scene.ndc, scene.near, scene.far, scene.up) == (True, 0.0, 1.0, (0.0, 1.0, 0.0))
    assert scene.depth_range == pytest.approx((4 / 3, 4 / 3 * high / low))
    assert scene.split == {"train": tuple(range(1, 8)), "val": (0, 8), "test": (0, 8)}
    flat = load_colmap(root, factor=1, ndc=False, bd_factor=None)
    assert (flat.ndc, flat.near, flat.far) == (False, pytest.approx(0.9 * low), pytest.approx(high))
    assert load_colmap(root, factor=1, ndc=False, near=1.0, far=9.0).far == 9.0
    refused(root, "bd_factor -1", bd_factor=-1.0)


def test_same_rays_as_the_llff_file_of_the_same_model(tmp_path, forward):
    cameras, images, points = make(forward_poses(), ("SIMPLE_PINHOLE", [60.0, WIDTH / 2, HEIGHT / 2]))
    root = write_scene(tmp_path, (cameras, images, points))
    rows = []
    places = {number: place for number, place, _ in points}
    for _, q, t, _, _, keypoints in sorted(images, key=lambda image: image[4]):
        r = quaternion_matrix(q)
        depths = [(r @ places[n] + t)[2] for _, _, n in keypoints if n >= 0]
        matrix = np.stack([r[1], r[0], -r[2], -r.T @ t, [HEIGHT, WIDTH, 60]], axis=1)
        rows.append([*matrix.ravel(), *np.percentile(depths, [0.1, 99.9])])
    np.save(root / "poses_bounds.npy", np.array(rows))
    a, b = load_colmap(root, factor=2), load_llff(root, factor=2)
    assert torch.equal(a.images, b.images)
    assert (a.names, a.split, a.near, a.far, a.ndc) == (b.names, b.split, b.near, b.far, b.ndc)
    rays = [image_rays(scene.cameras, 4, scene.near, scene.far, ndc=True) for scene in (a, b)]
    assert max((ours - theirs).abs().max() for ours, theirs in zip(*rays, strict=True)) < 1e-5


def test_captures_around_something(tmp_path, around):
    scene = load_colmap(write_scene(tmp_path, around), factor=1)
    assert (scene.ndc, scene.up) == (False, (0.0, 0.0, 1.0))
    poses = scene.cameras.poses.double()
    centres = poses[:, :, 3]
    assert centres.square().sum(1).mean().sqrt().item() == pytest.approx(4)
    assert (poses[:, 2, 1] > 0.5).all()  # upright
    points = to_scene(scene, around[1])(np.array([place for _, place, _ in around[2]]))
    assert (scene.near, scene.far) == pytest.approx(depth_bounds(poses, points), rel=1e-5)
    low, high = depth_percentiles(around)
    assert scene.depth_range[1] / scene.depth_range[0] == pytest.approx(high / low)


def test_a_stray_point_does_not_bring_the_scene_near(tmp_path, forward):
    """A point that one image's match puts right before its lens; with 60 points it is below the 0.1st percentile."""
    cameras, images, points = forward
    low, _ = depth_percentiles(forward)
    _, q, t, _, _, keypoints = images[3]
    r = quaternion_matrix(q)
    points.append((9999, r.T @ (np.array([0.0, 0.0, 0.01]) - t), [(images[3][0], len(keypoints))]))
    keypoints.append((WIDTH / 2, HEIGHT / 2, 9999))
    scene = load_colmap(write_scene(tmp_path, [cameras, images, points]), factor=1, keep_world=True)
    assert 0.4 * low < scene.depth_range[0] < low


@pytest.mark.parametrize("poses", [around_poses, forward_poses])
def test_the_world_of_the_model_can_be_kept(tmp_path, poses):
    model = make(poses())
    scene = load_colmap(write_scene(tmp_path, model), factor=1, keep_world=True)
    read = torch.stack([image.pose for image in read_model(tmp_path / "sparse" / "0").images])
    assert (scene.cameras.poses - read).abs().max() < 1e-6
    low, high = depth_percentiles(model)
    assert (scene.ndc, scene.up, scene.depth_range) == (False, (0.0, 0.0, 1.0), pytest.approx((low, high)))
    assert (scene.near, scene.far) == pytest.approx((0.9 * low, high))


def test_a_model_without_points(tmp_path, around, forward):
    scene = load_colmap(write_scene(tmp_path / "around", (*around[:2], [])), factor=1)
    assert (scene.near, scene.far) == pytest.approx((scene.depth_range[0], scene.depth_range[1]))
    assert 0 < scene.near < 4 < scene.far  # the cameras are 4 away from what they look at
    root = write_scene(tmp_path / "parallel", (*forward[:2], []))
    refused(root, root / "sparse" / "0", "axes do not meet")
    # Cameras on a line, 0.2 apart, that look at a point 5 ahead of the middle one.
    poses = []
    for x in 0.2 * np.arange(-4, 5):
        r = rodrigues([0, 1, 0], np.degrees(np.arctan2(x, 5)))
        poses.append((r, -r @ [x, 0, 0]))
        assert np.abs((r @ [0, 0, 5] + poses[-1][1])[:2]).max() < 1e-12
    cameras, images, _ = make((poses, lambda p: p + np.array([0, 0, 5])))
    scene = load_colmap(write_scene(tmp_path / "fan", (cameras, images, [])), factor=1, bd_factor=0.0)
    assert scene.ndc
    assert scene.depth_range[0] < 5 < scene.depth_range[1]


def test_where_the_model_may_be(tmp_path, around):
    for where in ("sparse/0", "sparse", "."):
        root = tmp_path / where.replace("/", "_").replace(".", "top")
        write_images(root / "images", [image[4] for image in around[1]])
        write_text(root / where, *around)
        assert len(load_scene(root, factor=1).images) == 10
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(empty, empty, "no COLMAP model", "sparse/0")
    refused(tmp_path / "nowhere", "no such folder")
    (root / "points3D.txt").unlink()
    refused(root, root / "points3D.txt", "no such file")


def test_the_largest_of_several_models_is_read(tmp_path, around):
    cameras, images, points = around
    root = write_scene(tmp_path, around)
    write_text(root / "sparse" / "1", cameras, images[:2], points)
    with pytest.warns(UserWarning, match=r"2 models, 0 \(10 images\), 1 \(2 images\); 0, which has most") as caught:
        scene = load_colmap(root, factor=1)
    assert len(scene.images) == 10
    assert len(caught) == 1


def test_images_without_a_pose_are_listed_and_left_out(tmp_path, around):
    root = write_scene(tmp_path, around)
    write_images(root / "images", [f"zz_{i}.jpg" for i in range(7)] + ["more/a.png"])
    (root / "images" / "._photo_00.png").write_bytes(b"what macOS leaves behind")
    with pytest.warns(UserWarning, match="8 of 18 images have no pose") as caught:
        scene = load_colmap(root, factor=1)
    assert len(caught) == 1
    assert str(caught[0].message).endswith("more/a.png, zz_0.jpg, zz_1.jpg, zz_2.jpg, zz_3.jpg and 3 more")
    assert caught[0].message.images == ("images/more/a.png", *(f"images/zz_{i}.jpg" for i in range(7)))
    assert scene.names == tuple(f"images/photo_{i:02}.png" for i in range(10))


def test_registered_images_have_to_be_there(tmp_path, around):
    root = write_scene(tmp_path, around)
    for i in range(7):
        (root / "images" / f"photo_{i:02}.png").unlink()
    names = ", ".join(f"photo_{i:02}.png" for i in range(5))
    refused(root, root / "images", "7 of the 10", f"{names} and 2 more")


def test_reduced_images_may_have_another_extension(tmp_path, around):
    root = write_scene(tmp_path, around)
    write_images(root / "images_4", [f"photo_{i:02}.jpg" for i in range(10)], (16, 12))
    scene = load_colmap(root, factor=4)
    assert scene.names[0] == "images_4/photo_00.jpg"
    assert scene.cameras.intrinsics[0].tolist() == pytest.approx([15, 15.25, 7.75, 6.25])
    assert load_colmap(root, factor=4, image_size=8).images.shape == (10, 6, 8, 3)
    write_images(root / "images_2", [f"photo_{i:02}.png" for i in range(10)], (24, 32))
    refused(root, "photo_00.png", "24x32", "64x48", factor=2)
    cameras, images, points = around
    images = [*images, [99, *images[0][1:4], "photo_00.jpg", []]]
    write_binary(root / "sparse" / "0", cameras, images, points)
    refused(root, "photo_00", "extension", factor=4)


def test_images_in_folders(tmp_path):
    cameras, images, points = make(around_poses())
    for i, image in enumerate(images):
        image[4] = f"camera {i % 2}/{i}.png"
    for form, write in (("text", write_text), ("binary", write_binary)):
        scene = load_colmap(write_scene(tmp_path / form, (cameras, images, points), write), factor=1)
        assert scene.names[:2] == ("images/camera 0/0.png", "images/camera 0/2.png")


def test_cameras_with_different_focal_lengths_share_the_ndc_of_the_widest(tmp_path, forward):
    cameras, images, points = forward
    cameras = [*cameras, [6, "SIMPLE_PINHOLE", WIDTH, HEIGHT, [52.0, 32.0, 24.0]]]
    images = [*images[:-1], [*images[-1][:3], 6, *images[-1][4:]]]
    root = write_scene(tmp_path, (cameras, images, points))
    scene = load_colmap(root, factor=1)
    assert scene.ndc
    assert scene.cameras.ndc_scale == pytest.approx((2 * 52 / WIDTH, 2 * 52 / HEIGHT))
    # The rays of all views that pass one point of the world pass one point of NDC.
    views, point = scene.cameras[[0, 1, 8]], torch.tensor([0.2, -0.1, -4.0])
    assert views.intrinsics[:, 0].tolist() == [52, 60, 60]
    index = torch.arange(3)
    pixel, _ = project(views, index, point.expand(3, 3))
    # Each lens is shifted so that the point is seen in the middle of the pixel at row 20, column 30.
    shift = torch.cat([torch.zeros(3, 2), torch.tensor([30.5, 20.5]) - pixel], dim=1)
    views = replace(views, intrinsics=views.intrinsics + shift)
    rays = camera_rays(views, index, torch.full((3,), 20), torch.full((3,), 30), 0.0, 1.0, ndc=True)
    t = 1 + 1 / point[2]
    expected = [2 * 52 / WIDTH * 0.2 / 4, 2 * 52 / HEIGHT * -0.1 / 4, -1 + 2 * 3 / 4]
    np.testing.assert_allclose(rays.origins + t * rays.directions, [expected] * 3, atol=1e-5)
