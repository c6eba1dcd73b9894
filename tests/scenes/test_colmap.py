"""COLMAP models: both forms, poses, lenses, bounds, and damaged files. The writers are the tests' own."""

import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from nerf_dfa.errors import UserError
from nerf_dfa.rendering.distortion import project
from nerf_dfa.rendering.rays import camera_rays, image_rays
from nerf_dfa.scenes import load_scene
from nerf_dfa.scenes.colmap import load_colmap
from nerf_dfa.scenes.colmap_model import read_model
from nerf_dfa.scenes.llff import load_llff
from nerf_dfa.scenes.placement import depth_bounds

WIDTH, HEIGHT = 64, 48
PINHOLE = ("PINHOLE", [60.0, 61.0, 31.0, 25.0])
LENSES = [
    ("SIMPLE_PINHOLE", [60.0, 31.0, 25.0]),
    PINHOLE,
    ("SIMPLE_RADIAL", [60.0, 31.0, 25.0, -0.05]),
    ("RADIAL", [60.0, 31.0, 25.0, -0.05, 0.02]),
    ("OPENCV", [60.0, 61.0, 31.0, 25.0, -0.05, 0.02, 0.003, -0.002]),
    ("FULL_OPENCV", [60.0, 61.0, 31.0, 25.0, -0.05, 0.02, 0.003, -0.002, 0.01, 0.0, 0.0, 0.0]),
    ("OPENCV_FISHEYE", [60.0, 61.0, 31.0, 25.0, 0.03, -0.01, 0.005, -0.001]),
    ("SIMPLE_RADIAL_FISHEYE", [60.0, 31.0, 25.0, 0.03]),
    ("RADIAL_FISHEYE", [60.0, 31.0, 25.0, 0.03, -0.01]),
    ("SIMPLE_FISHEYE", [60.0, 31.0, 25.0]),
    ("FISHEYE", [60.0, 61.0, 31.0, 25.0]),
]
NUMBERS = dict(SIMPLE_PINHOLE=0, PINHOLE=1, SIMPLE_RADIAL=2, RADIAL=3, OPENCV=4, OPENCV_FISHEYE=5, FULL_OPENCV=6)
NUMBERS |= dict(FOV=7, SIMPLE_RADIAL_FISHEYE=8, RADIAL_FISHEYE=9, THIN_PRISM_FISHEYE=10, SIMPLE_FISHEYE=14, FISHEYE=15)


def rodrigues(axis, degrees):
    x, y, z = np.asarray(axis) / np.linalg.norm(axis)
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.radians(degrees)
    return np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * k @ k


def to_quaternion(r):
    """(w, x, y, z) as the eigenvector of Bar-Itzhack's matrix (2000), whose greatest eigenvalue is 1."""
    a = [
        [r[0, 0] - r[1, 1] - r[2, 2], r[1, 0] + r[0, 1], r[2, 0] + r[0, 2], r[2, 1] - r[1, 2]],
        [r[1, 0] + r[0, 1], r[1, 1] - r[0, 0] - r[2, 2], r[2, 1] + r[1, 2], r[0, 2] - r[2, 0]],
        [r[2, 0] + r[0, 2], r[2, 1] + r[1, 2], r[2, 2] - r[0, 0] - r[1, 1], r[1, 0] - r[0, 1]],
        [r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1], np.trace(r)],
    ]
    x, y, z, w = np.linalg.eigh(np.array(a))[1][:, -1]
    return [w, x, y, z]


def seen_at(lens, points):
    """Pixels (x, y) of points (n, 3) in COLMAP's camera axes, by the formulas of COLMAP's documentation."""
    model, p = lens
    two = model in ("PINHOLE", "OPENCV", "FULL_OPENCV", "OPENCV_FISHEYE", "FISHEYE")
    (fx, fy, cx, cy), rest = (p[:4], p[4:]) if two else ((p[0], *p[:3]), p[3:])
    u, v = (points[:, :2] / points[:, 2:]).T
    if "FISHEYE" in model:
        r = np.hypot(u, v)
        theta = np.arctan(r)
        ratio = theta * (1 + sum(k * theta ** (2 * i + 2) for i, k in enumerate(rest))) / r
        u, v = u * ratio, v * ratio
    elif rest:
        k1, k2, p1, p2, k3, *_ = [*rest, *[0] * (5 - len(rest))]
        r2 = u * u + v * v
        radial = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3
        u, v = (
            u * radial + 2 * p1 * u * v + p2 * (r2 + 2 * u * u),
            v * radial + 2 * p2 * u * v + p1 * (r2 + 2 * v * v),
        )
    return np.stack([fx * u + cx, fy * v + cy], axis=1)


def forward_poses(count=9):
    """World-to-camera rotations and translations of cameras that look nearly one way."""
    rng = np.random.default_rng(0)
    world = rodrigues([1, 2, 3], 70)
    rotations = [rodrigues(rng.normal(size=3), 5) @ world for _ in range(count)]
    centres = [world.T @ (rng.normal(size=3) * [0.5, 0.5, 0.05]) for _ in range(count)]
    return [(r, -r @ c) for r, c in zip(rotations, centres, strict=True)], lambda p: p @ world + 6 * world[2]


def around_poses(count=10):
    """Cameras on a circle, above what they look at, in a world of another unit that lies on its side."""
    world = rodrigues([1, -1, 0.5], 100)
    poses = []
    for i, angle in enumerate(2 * np.pi * np.arange(count) / count):
        offset = np.array([np.cos(angle), np.sin(angle), 0.5 + 0.1 * (i % 2)]) * 3
        ahead = -offset / np.linalg.norm(offset)
        right = np.cross(ahead, [0, 0, 1])
        right /= np.linalg.norm(right)
        r = np.stack([right, np.cross(ahead, right), ahead]) @ world.T
        poses.append((r, -r @ (world @ offset + [4, 5, 6])))
    return poses, lambda p: 0.4 * p @ world.T + [4, 5, 6]


def make(poses_and_place, lens=PINHOLE, points=60):
    """cameras, images, points of a model: each image sees those points that fall into it."""
    poses, place = poses_and_place
    rng = np.random.default_rng(1)
    xyz = place(rng.normal(size=(points, 3)))
    numbers = rng.permutation(3 * points)[:points] + 7
    images, tracks = [], {number: [] for number in numbers}
    for i, (r, t) in enumerate(poses):
        in_camera = xyz @ r.T + t
        where = seen_at(lens, in_camera)
        inside = (in_camera[:, 2] > 0) & ((where > 0) & (where < [WIDTH, HEIGHT])).all(1)
        keypoints = [(3.0, 4.0, -1)]
        for j in np.flatnonzero(inside):
            tracks[numbers[j]].append((20 - i, len(keypoints)))
            keypoints.append((*where[j], numbers[j]))
        # the order of the files is not the order of the names, and numbers are arbitrary
        images.insert(0, [20 - i, to_quaternion(r), t, 5, f"photo_{i:02}.png", keypoints])
    points3d = [(number, place_, tracks[number]) for number, place_ in zip(numbers, xyz, strict=True)]
    return [[5, lens[0], WIDTH, HEIGHT, lens[1]]], images, points3d


def write_text(folder, cameras, images, points):
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["# Camera list", *(" ".join(map(repr, [n, *rest, *map(float, p)])) for n, *rest, p in cameras)]
    (folder / "cameras.txt").write_text("\n".join(lines).replace("'", "") + "\n")
    lines = ["# Image list with two lines of data per image:"]
    for number, q, t, camera, name, keypoints in images:
        lines.append(" ".join([str(number), *(repr(float(x)) for x in [*q, *t]), str(camera), name]))
        lines.append(" ".join(f"{float(x)!r} {float(y)!r} {n}" for x, y, n in keypoints))
    (folder / "images.txt").write_text("\n".join(lines) + "\n")
    lines = ["# 3D point list"]
    for number, place, track in points:
        x, y, z = (repr(float(v)) for v in place)
        lines.append(" ".join([str(number), x, y, z, "1 2 3 0.5", *(f"{i} {j}" for i, j in track)]))
    (folder / "points3D.txt").write_text("\n".join(lines) + "\n")


def write_binary(folder, cameras, images, points):
    folder.mkdir(parents=True, exist_ok=True)
    out = struct.pack("<Q", len(cameras))
    for number, model, width, height, p in cameras:
        out += struct.pack(f"<IiQQ{len(p)}d", number, NUMBERS[model], width, height, *p)
    (folder / "cameras.bin").write_bytes(out)
    out = struct.pack("<Q", len(images))
    for number, q, t, camera, name, keypoints in images:
        out += struct.pack("<I7dI", number, *q, *t, camera) + name.encode() + b"\0"
        out += struct.pack("<Q", len(keypoints))
        out += b"".join(struct.pack("<ddq", *keypoint) for keypoint in keypoints)
    (folder / "images.bin").write_bytes(out)
    out = struct.pack("<Q", len(points))
    for number, place, track in points:
        out += struct.pack("<Q3d3BdQ", number, *place, 1, 2, 3, 0.5, len(track))
        out += b"".join(struct.pack("<II", *pair) for pair in track)
    (folder / "points3D.bin").write_bytes(out)


def write_images(folder, names, size=(WIDTH, HEIGHT), mode="RGB"):
    rng = np.random.default_rng(2)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (size[1], size[0], len(mode)), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)


def write_scene(root, model, write=write_binary):
    write(root / "sparse" / "0", *model)
    write_images(root / "images", [image[4] for image in model[1]])
    return root


def refused(root, *words, **options):
    with pytest.raises(UserError) as error:
        load_colmap(root, **{"factor": 1} | options)
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message, message


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
    assert centres.square().sum(1).mean().sqrt().item() == pytest.approx(1)
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
    assert 0 < scene.near < 1 < scene.far  # the cameras are 1 away from what they look at
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


def test_one_size_and_one_kind_of_lens(tmp_path, around):
    cameras, images, points = around
    images = [[*images[0][:3], 6, *images[0][4:]], *images[1:]]
    other = [6, "SIMPLE_PINHOLE", WIDTH, HEIGHT + 2, [62.0, 32.0, 24.0]]
    root = write_scene(tmp_path, ([*cameras, other], images, points))
    refused(root, "photo_00.png is 64x48", "photo_09.png is 64x50")
    other = [6, "RADIAL_FISHEYE", WIDTH, HEIGHT, [62.0, 32.0, 24.0, 0.0, 0.0]]
    write_binary(root / "sparse" / "0", [*cameras, other], images, points)
    refused(root, "photo_00.png has PINHOLE", "photo_09.png has RADIAL_FISHEYE")


@pytest.mark.parametrize("write", [write_text, write_binary])
def test_lenses_that_are_refused(tmp_path, around, write):
    _, images, points = around
    for name, count in (("FOV", 5), ("THIN_PRISM_FISHEYE", 12)):
        root = write_scene(tmp_path, ([[5, name, WIDTH, HEIGHT, [60.0] * count]], images, points), write)
        refused(root, "cameras.", "camera 5", name, "OPENCV_FISHEYE")
    full = [60.0, 61.0, 31.0, 25.0, *[0.0] * 7, 0.01]
    write_scene(tmp_path, ([[5, "FULL_OPENCV", WIDTH, HEIGHT, full]], images, points), write)
    refused(root, "k4, k5, k6", "FULL_OPENCV")
    folding = [60.0, 32.0, 24.0, -3.0]
    write_scene(tmp_path, ([[5, "SIMPLE_RADIAL", WIDTH, HEIGHT, folding]], images, points), write)
    refused(root, root / "sparse" / "0", "folds")


@pytest.mark.parametrize("write", [write_text, write_binary])
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda c, i, p: i[0].__setitem__(1, [2.0, 0, 0, 0]), ["images.", "photo_09", "not a rotation", "length 2"]),
        (lambda c, i, p: i[0].__setitem__(1, [0.0, 0, 0, 0]), ["photo_09.png", "length 0"]),
        (lambda c, i, p: i[0].__setitem__(1, [np.nan, 0, 0, 1]), ["photo_09.png", "not finite"]),
        (lambda c, i, p: i[0].__setitem__(2, [0, 0, np.inf]), ["photo_09.png", "not finite"]),
        (lambda c, i, p: i[0].__setitem__(3, 77), ["photo_09.png", "camera 77", "cameras."]),
        (lambda c, i, p: i[0].__setitem__(4, "photo_03.png"), ["images.", "photo_03.png", "twice"]),
        (lambda c, i, p: c.append(c[0]), ["cameras.", "camera 5", "twice"]),
        (lambda c, i, p: p.append(p[0]), ["points3D.", "twice"]),
        (lambda c, i, p: p.__setitem__(0, (1000, [0, np.nan, 0], [])), ["points3D.", "point 1000", "not finite"]),
        (lambda c, i, p: c[0].__setitem__(4, [60.0, np.nan, 31.0, 25.0]), ["cameras.", "camera 5", "not finite"]),
        (lambda c, i, p: c[0].__setitem__(4, [-60.0, 60.0, 31.0, 25.0]), ["camera 5", "greater than 0"]),
        (lambda c, i, p: c[0].__setitem__(2, 0), ["camera 5", "greater than 0"]),
        (lambda c, i, p: i.clear(), ["images.", "no image"]),
    ],
)
def test_wrong_values_are_named(tmp_path, write, spoil, words):
    cameras, images, points = make(around_poses())
    root = tmp_path
    write_images(root / "images", [image[4] for image in images])
    spoil(cameras, images, points)
    write(root / "sparse", cameras, images, points)
    refused(root, root / "sparse", *words)


def test_truncated_binary_files(tmp_path, around):
    cameras, images, points = around
    small = cameras, [[*image[:5], image[5][:2]] for image in images[:2]], points[:3]
    root = write_scene(tmp_path, small)
    for name in ("cameras", "images", "points3D"):
        file = root / "sparse" / "0" / f"{name}.bin"
        whole = file.read_bytes()
        for length in range(0, len(whole), 2):
            file.write_bytes(whole[:length])
            refused(root, file, "truncated")
        file.write_bytes(whole + b"\0")
        refused(root, file, "1 bytes after its end")
        file.write_bytes(b"\xff" * 8 + whole[8:])
        refused(root, file, "18446744073709551615", "truncated")
        file.write_bytes(whole)
    load_colmap(root, factor=1, llffhold=2)


def test_rubbish(tmp_path, around):
    root = write_scene(tmp_path, around)
    rng = np.random.default_rng(3)
    for name in ("cameras", "images", "points3D"):
        file = root / "sparse" / "0" / f"{name}.bin"
        whole = file.read_bytes()
        for count in (0, 1, 2):  # a plausible count, then anything
            file.write_bytes(struct.pack("<Q", count) + rng.bytes(5000))
            refused(root, root / "sparse" / "0")
        file.write_bytes(rng.bytes(5000))
        refused(root, file)
        file.write_bytes(whole)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_absurd_lengths_in_the_middle(tmp_path, around):
    """Names, tracks and lists of keypoints that claim to go on for ever, and any other eight wrong bytes."""
    cameras, images, points = around
    root = write_scene(tmp_path, (cameras, [[*image[:5], image[5][:2]] for image in images[:3]], points[:3]))
    for name in ("cameras", "images", "points3D"):
        file = root / "sparse" / "0" / f"{name}.bin"
        whole = file.read_bytes()
        for at in range(8, len(whole), 5):
            file.write_bytes(whole[:at] + b"\xff" * 8 + whole[at + 8 :])
            error = None
            try:
                load_colmap(root, factor=1, llffhold=2)
            except UserError as caught:
                error = str(caught)
            assert error is None or "\n" not in error
        file.write_bytes(whole)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("cameras", "1 PINHOLE 64\n", ["line 1", "CAMERA_ID MODEL WIDTH HEIGHT PARAMS"]),
        ("cameras", "# c\n\n5 PINHOLE 64 48 60 60 32\n", ["line 3", "camera 5", "3 parameters", "fx, fy, cx, cy"]),
        ("cameras", "5 LENS 64 48 60\n", ["line 1", "LENS"]),
        ("cameras", "", ["cameras.txt lacks"]),
        ("images", "1 1 0 0 0 0 0\n\n", ["line 1", "QW QX QY QZ"]),
        ("images", "1 1 0 0 0 0 0 x 5 a.png\n\n", ["line 1", "QW QX QY QZ"]),
        ("images", "1 1 0 0 0 0 0 0 5 a.png\n2 1 0 0 0 0 0 0 5 b.png\n", ["line 2", "keypoint"]),
        ("images", "1 1 0 0 0 0 0 0 5 a.png\n1.0 2.0 3.0\n", ["line 2", "POINT3D_ID"]),
        ("points3D", "1 0 0\n", ["line 1", "POINT3D_ID X Y Z"]),
        ("points3D", "# p\n1 0 0 x 0 0 0\n", ["line 2", "POINT3D_ID X Y Z"]),
        ("points3D", f"{2**70} 0 0 1 0 0 0\n", ["64 bits"]),
    ],
)
def test_wrong_lines_are_numbered(tmp_path, around, name, text, words):
    root = write_scene(tmp_path, around, write_text)
    file = root / "sparse" / "0" / f"{name}.txt"
    file.write_text(text)
    refused(root, file.parent, *words)
    file.write_bytes(b"\xff\xfe\x80" * 10)
    refused(root, file, "cannot be read as text")


def test_a_cut_text_file(tmp_path, around):
    root = write_scene(tmp_path, around, write_text)
    file = root / "sparse" / "0" / "images.txt"
    whole = file.read_text()
    file.write_text(whole[: whole.rindex("photo_00") - 30])
    refused(root, file, "line 20", "QW QX QY QZ")


def test_images_that_differ_and_a_split_that_leaves_none(tmp_path, around):
    root = write_scene(tmp_path, around)
    refused(root, root, "llffhold 1", "10 views", llffhold=1)
    write_images(root / "images", ["photo_04.png"], mode="RGBA")
    refused(root, "photo_04.png has alpha", "photo_00.png not")


def test_cameras_that_cannot_be_placed(tmp_path, around):
    cameras, images, points = around
    still = [[*image[:2], np.zeros(3), *image[3:5], []] for image in images]
    root = write_scene(tmp_path, (cameras, still, points))
    refused(root, root / "sparse" / "0", "cannot be placed")
