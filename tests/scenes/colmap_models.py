"""COLMAP models of made-up cameras, written as COLMAP writes them, for tests."""

import struct

import numpy as np
import pytest
from PIL import Image

from nerf_dfa.errors import UserError
from nerf_dfa.scenes.colmap import load_colmap

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
