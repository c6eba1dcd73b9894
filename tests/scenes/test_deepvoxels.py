"""DeepVoxels scenes as nerf-pytorch reads them: train, validation and test folders of rgb and pose."""

import numpy as np
import pytest
import torch
from PIL import Image

from nerf_dfa.errors import UserError
from nerf_dfa.scenes import load_scene
from nerf_dfa.scenes.deepvoxels import load_deepvoxels
from nerf_dfa.scenes.load import recognise

SIDE = 16
COUNTS = {"train": 6, "validation": 3, "test": 5}
INTRINSICS = "525.0 320.0 240.0 0.\n0. 0. 0.\n0.\n1.\n480 640\n"


def matrices(count, start=0):
    """Camera-to-world in axes right, down, ahead: on a hemisphere of radius 3 to 4, looking at the origin."""
    result = []
    for i in range(start, start + count):
        azimuth, height = 2.4 * i, 0.2 + 0.1 * (i % 6)
        offset = np.array([np.cos(azimuth), np.sin(azimuth), height])
        ahead = -offset / np.linalg.norm(offset)
        right = np.cross(ahead, [0, 0, 1])
        right /= np.linalg.norm(right)
        matrix = np.eye(4)
        matrix[:3] = np.stack([right, np.cross(ahead, right), ahead, (3 + i / 14) * -ahead], axis=1)
        result.append(matrix)
    return result


def write(root, shape="cube", size=(SIDE, SIDE), intrinsics=INTRINSICS, inverted=False):
    rng = np.random.default_rng(0)
    start = 0
    for split, count in COUNTS.items():
        folder = root / split / shape
        for kind in ("rgb", "pose"):
            (folder / kind).mkdir(parents=True)
        (folder / "intrinsics.txt").write_text(intrinsics)
        for i, matrix in enumerate(matrices(count, start)):
            matrix = np.linalg.inv(matrix) if inverted else matrix
            text = "\n".join(" ".join(map(repr, map(float, row))) for row in matrix)
            (folder / "pose" / f"{i:06}.txt").write_text(text)
            pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "rgb" / f"{i:06}.png")
        start += count
    return root


def refused(root, *words, **options):
    with pytest.raises(UserError) as error:
        load_deepvoxels(root, **options)
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message, message


def test_scene_as_written(tmp_path):
    root = write(tmp_path / "deepvoxels")
    scene = load_deepvoxels(root)
    assert scene.name == "cube"
    assert scene.images.shape == (14, SIDE, SIDE, 3)
    assert scene.split == {"train": tuple(range(6)), "val": (6, 7, 8), "test": (9, 10, 11, 12, 13)}
    assert scene.names[7] == "validation/cube/rgb/000001.png"
    with Image.open(root / scene.names[7]) as image:
        assert np.array_equal(scene.images[7].numpy(), np.asarray(image))
    expected = np.array(matrices(14)) @ np.diag([1, -1, -1, 1])
    assert np.abs(scene.cameras.poses.numpy() - expected[:, :3]).max() < 1e-6
    assert (scene.ndc, scene.up) == (False, (0.0, 0.0, 1.0))
    radius = np.mean([3 + i / 14 for i in range(14)])
    assert (scene.near, scene.far) == pytest.approx((radius - 1, radius + 1))
    assert (load_deepvoxels(root, near=0.5).near, load_deepvoxels(root, far=9.0).far) == (0.5, 9.0)


def test_lens(tmp_path):
    """512x512 images of 480x640: f * 512 / 480 and a centred lens, as nerf-pytorch has it."""
    side = write(tmp_path / "square", size=(512 // 32, 512 // 32))
    intrinsics = load_deepvoxels(side).cameras.intrinsics[0]
    assert (intrinsics * 32).tolist() == pytest.approx([560, 560, 256, 256])
    # An off-centre lens: column 330 of 640 is 250 of the middle 480, and 512 / 480 times that in 512.
    off = write(tmp_path / "off", intrinsics=INTRINSICS.replace("320.0 240.0", "330.0 243.0"))
    intrinsics = load_deepvoxels(off).cameras.intrinsics[0]
    assert (intrinsics * 32).tolist() == pytest.approx([560, 560, 250 * 512 / 480, 243 * 512 / 480])
    whole = write(tmp_path / "whole", size=(20, 15), intrinsics=INTRINSICS.replace("320.0 240.0", "330.0 243.0"))
    intrinsics = load_deepvoxels(whole).cameras.intrinsics[0]
    assert (intrinsics * 32).tolist() == pytest.approx([525, 525, 330, 243])
    assert load_deepvoxels(whole, image_size=4).cameras.intrinsics[0, 0].item() == pytest.approx(525 / 160)


def test_world_to_camera_poses(tmp_path):
    there = write(tmp_path / "there", intrinsics=INTRINSICS + "1\n", inverted=True)
    here = write(tmp_path / "here", intrinsics=INTRINSICS + "0\n")
    difference = load_deepvoxels(there).cameras.poses - load_deepvoxels(here).cameras.poses
    assert difference.abs().max() < 1e-5


def test_testskip(tmp_path):
    scene = load_deepvoxels(write(tmp_path), testskip=2)
    assert scene.split == {"train": tuple(range(6)), "val": (6, 7), "test": (8, 9, 10)}
    assert [name[-10:-4] for name in scene.names[6:]] == ["000000", "000002", "000000", "000002", "000004"]
    assert torch.allclose(scene.cameras.poses[10, :, 3].norm(), torch.tensor(3 + 13 / 14))
    refused(tmp_path, "testskip -1", testskip=-1)


def test_shapes(tmp_path):
    root = write(write(tmp_path / "two", "vase"), "cube")
    assert recognise(root) == "deepvoxels"
    refused(root, root, "choose a shape: cube, vase")
    refused(root, root, "no shape greek", "cube, vase", shape="greek")
    assert load_scene(root, shape="vase").name == "vase"
    single = write(tmp_path / "single", "")
    assert recognise(single) == "deepvoxels"
    assert load_scene(single).name == "single"
    refused(single, "no shape cube", shape="cube")


def test_without_validation_and_test(tmp_path):
    root = write(tmp_path)
    for folder in ("validation", "test"):
        (root / folder).rename(root / f"old_{folder}")
    assert load_deepvoxels(root).split == {"train": tuple(range(6)), "val": (), "test": ()}


def test_missing_folders_are_named(tmp_path):
    refused(tmp_path / "nowhere", "no such folder")
    refused(tmp_path, tmp_path / "train", "intrinsics.txt")
    root = write(tmp_path / "data")
    (root / "test" / "cube" / "intrinsics.txt").unlink()
    refused(root, root / "test" / "cube" / "intrinsics.txt", "no such file")
    (root / "validation" / "cube" / "pose").rename(root / "elsewhere")
    refused(root, root / "validation" / "cube" / "pose", "no such folder")


def test_images_and_poses_have_to_match(tmp_path):
    root = write(tmp_path)
    folder = root / "train" / "cube"
    (folder / "pose" / "000003.txt").rename(folder / "pose" / "000009.txt")
    refused(root, "000009.txt", "no image of this name")
    (folder / "pose" / "000009.txt").unlink()
    refused(root, folder, "6 images", "5 poses")
    for kind in ("rgb", "pose"):
        for file in (folder / kind).iterdir():
            file.unlink()
    refused(root, folder / "rgb", "no .png images")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1 0 0 0\n0 1 0 0\n0 0 1", ["11 numbers", "16"]),
        ("", ["0 numbers"]),
        ("1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 x", ["no number"]),
        ("2 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1", ["not a rotation", "by 3"]),
        ("1 0 0 0 0 1 0 0 0 0 -1 0 0 0 0 1", ["mirrors"]),
        ("1 0 0 nan 0 1 0 0 0 0 1 0 0 0 0 1", ["not finite"]),
        ("1 0 0 0 0 1 0 0 0 0 1 0 0 0 1 1", ["0 0 0 1"]),
    ],
)
def test_wrong_poses_are_named(tmp_path, text, words):
    root = write(tmp_path)
    file = root / "train" / "cube" / "pose" / "000002.txt"
    file.write_text(text)
    refused(root, file, *words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["f cx cy"]),
        (INTRINSICS[:30], ["f cx cy"]),
        (INTRINSICS.replace("525.0", "nan"), ["f nan", "positive"]),
        (INTRINSICS.replace("525.0", "-1"), ["f -1", "positive"]),
        (INTRINSICS.replace("480 640", "480"), ["height width"]),
        (INTRINSICS.replace("480", "many"), ["no number"]),
    ],
)
def test_wrong_lenses_are_named(tmp_path, text, words):
    root = write(tmp_path)
    file = root / "train" / "cube" / "intrinsics.txt"
    file.write_text(text)
    refused(root, file, *words)
    file.write_bytes(b"\xff\xfe\x80")
    refused(root, file, "cannot be read as text")


def test_bounds_and_images_that_do_not_fit(tmp_path):
    root = write(tmp_path)
    folder = root / "train" / "cube"
    refused(root, folder, "near 5", near=5.0, far=4.0)
    file = folder / "rgb" / "000001.png"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    refused(root, file, "damaged")
    Image.new("RGBA", (SIDE, SIDE)).save(file)
    refused(root, "000001.png has alpha", "000000.png not")
    Image.new("RGB", (SIDE, SIDE + 1)).save(file)
    refused(root, file, "16x17")
