"""COLMAP models that are damaged, or of what cannot be rendered: each is one line."""

import struct

import numpy as np
import pytest
from scenes.colmap_models import (
    HEIGHT,
    WIDTH,
    around_poses,
    make,
    refused,
    write_binary,
    write_images,
    write_scene,
    write_text,
)

from nerf_dfa.errors import UserError
from nerf_dfa.scenes.colmap import load_colmap


@pytest.fixture(scope="module")
def around():
    return make(around_poses())


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
