"""Blender scenes: cameras and pixels of a scene written here, of the real lego, and each way a scene can be wrong."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from nerf_dfa.errors import UserError
from nerf_dfa.rendering.rays import image_rays
from nerf_dfa.scenes.blender import load_blender

ANGLE = 2 * math.atan(0.5)  # the focal length is then the width


def pose(degrees, x=0.0):
    """A turn about z, at (x, 0, 4)."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return [[c, -s, 0, x], [s, c, 0, 0], [0, 0, 1, 4], [0, 0, 0, 1]]


def table(split, count, **keys):
    frames = [{"file_path": f"./{split}/r_{i}", "transform_matrix": pose(10 * i, x=i)} for i in range(count)]
    return {"camera_angle_x": ANGLE, "frames": frames, **keys}


def write(root, tables, size=(8, 6)):
    """The folder of a scene with an image of one colour, [10 i, 20, 30], for each frame i."""
    root.mkdir(exist_ok=True)
    for split, content in tables.items():
        (root / f"transforms_{split}.json").write_text(json.dumps(content))
        for i, frame in enumerate(content["frames"]):
            path = root / frame["file_path"]
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", size, (10 * i, 20, 30)).save(path if path.suffix in (".jpg", ".JPEG") else f"{path}.png")
    return root


@pytest.fixture
def tables():
    return {"train": table("train", 3), "val": table("val", 2), "test": table("test", 5)}


def refused(root, *words, **options):
    with pytest.raises(UserError) as error:
        load_blender(root, **options)
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message


def test_scene_as_written(tmp_path, tables):
    scene = load_blender(write(tmp_path / "toy", tables))
    assert scene.name == "toy"
    assert scene.split == {"train": (0, 1, 2), "val": (3, 4), "test": (5, 6, 7, 8, 9)}
    assert scene.names[4] == "val/r_1.png"
    assert (scene.near, scene.far, scene.ndc, scene.up) == (2.0, 6.0, False, (0.0, 0.0, 1.0))
    assert scene.images.shape == (10, 6, 8, 3)
    assert scene.images[7, 5, 7].tolist() == [20, 20, 30]
    assert torch.allclose(scene.cameras.poses[7], torch.tensor(pose(20, x=2)[:3]))
    assert torch.allclose(scene.cameras.intrinsics[0], torch.tensor([8.0, 8.0, 4.0, 3.0]))
    assert (scene.cameras.width, scene.cameras.height) == (8, 6)


def test_field_of_view_is_camera_angle_x(tmp_path, tables):
    scene = load_blender(write(tmp_path, tables))
    directions = image_rays(scene.cameras, 0, 2.0, 6.0).directions[3].double()
    edges = directions[[0, -1], 0] + torch.tensor([-0.5, 0.5]) / 8  # half a pixel beyond the outermost centres
    assert 2 * math.atan(edges[1].item()) == pytest.approx(ANGLE, abs=1e-6)
    assert edges.sum().item() == pytest.approx(0, abs=1e-6)


def test_each_file_has_its_own_field_of_view(tmp_path, tables):
    tables["test"]["camera_angle_x"] = math.pi / 2
    scene = load_blender(write(tmp_path, tables))
    assert scene.cameras.intrinsics[[0, 3, 5], 0].tolist() == pytest.approx([8, 8, 4])


def test_testskip_thins_val_and_test_only(tmp_path, tables):
    root = write(tmp_path, tables)
    scene = load_blender(root, testskip=2)
    kept = "train/r_0 train/r_1 train/r_2 val/r_0 test/r_0 test/r_2 test/r_4".split()
    assert scene.names == tuple(f"{name}.png" for name in kept)
    assert scene.images[-1, 0, 0, 0] == 40
    assert load_blender(root, testskip=0).names == load_blender(root).names


def test_smaller_images_keep_the_field_of_view(tmp_path, tables):
    root = write(tmp_path, tables)
    half = load_blender(root, half_res=True)
    assert half.images.shape == (10, 3, 4, 3)
    assert half.cameras.intrinsics[0].tolist() == pytest.approx([4, 4, 2, 1.5])
    small = load_blender(root, image_size=6)  # 6 / 8 of 6 rows is 4.5, which becomes 4
    assert small.images.shape == (10, 4, 6, 3)
    assert small.cameras.intrinsics[0].tolist() == pytest.approx([6, 8 * 4 / 6, 3, 2])
    refused(root, "half_res", "image_size", half_res=True, image_size=4)
    refused(root, "image_size 9", image_size=9)


def test_bounds_come_from_argument_then_file_then_default(tmp_path, tables):
    tables["train"] |= {"near": 1, "far": 3.5}
    root = write(tmp_path, tables)
    scene = load_blender(root)
    assert (scene.near, scene.far) == (1.0, 3.5)
    scene = load_blender(root, far=9.0)
    assert (scene.near, scene.far) == (1.0, 9.0)
    refused(root, "near 5", "far 3.5", near=5.0)


def test_val_and_test_may_be_absent(tmp_path, tables):
    scene = load_blender(write(tmp_path, {"train": tables["train"]}))
    assert scene.split == {"train": (0, 1, 2), "val": (), "test": ()}


def test_extensions(tmp_path, tables):
    for frame, name in zip(tables["train"]["frames"], ["a.jpg", "b.JPEG", "./train/v1.5"], strict=True):
        frame["file_path"] = name
    root = write(tmp_path, {"train": tables["train"]})
    assert load_blender(root).names == ("a.jpg", "b.JPEG", "train/v1.5.png")


def test_missing_files_are_named(tmp_path, tables):
    refused(tmp_path / "nowhere", tmp_path / "nowhere", "no such folder")
    refused(tmp_path, tmp_path / "transforms_train.json", "no such file")
    root = write(tmp_path, tables)
    (root / "test" / "r_3.png").unlink()
    refused(root, root / "test" / "r_3.png", "no such image")


def test_broken_json_is_located(tmp_path, tables):
    root = write(tmp_path, tables)
    file = root / "transforms_val.json"
    file.write_text('{\n  "camera_angle_x": 0.7,\n  "frames": [,]\n}')
    refused(root, file, "line 3")
    file.write_text("[1, 2]")
    refused(root, file, "JSON object")
    file.write_bytes(b"\xff\xfe\x00")
    refused(root, file, "text")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("camera_angle_x"), ["camera_angle_x", "missing"]),
        (lambda t: t.update(camera_angle_x="wide"), ["camera_angle_x", "wide"]),
        (lambda t: t.update(camera_angle_x=math.nan), ["camera_angle_x", "nan"]),
        (lambda t: t.update(camera_angle_x=40.0), ["camera_angle_x", "40", "radians"]),
        (lambda t: t.update(near="close"), ["near", "close"]),
        (lambda t: t.pop("frames"), ["frames", "missing"]),
        (lambda t: t.update(frames=[]), ["frames", "empty"]),
        (lambda t: t["frames"][1].pop("file_path"), ["frame 1", "file_path", "missing"]),
        (lambda t: t["frames"][1].update(file_path=7), ["frame 1", "file_path", "7"]),
        (lambda t: t["frames"][1].pop("transform_matrix"), ["train/r_1", "transform_matrix", "missing"]),
        (lambda t: t["frames"][1]["transform_matrix"].pop(), ["train/r_1", "transform_matrix", "4 rows of 4"]),
        (lambda t: t["frames"][1]["transform_matrix"][0].pop(), ["train/r_1", "4 rows of 4"]),
        (lambda t: t["frames"][1].update(transform_matrix="identity"), ["train/r_1", "4 rows of 4"]),
        (lambda t: t["frames"][1].update(transform_matrix=None), ["train/r_1", "4 rows of 4"]),
        (lambda t: t["frames"][1]["transform_matrix"][0].__setitem__(3, math.inf), ["train/r_1", "not finite"]),
        (lambda t: t["frames"][1]["transform_matrix"][3].__setitem__(0, 1), ["train/r_1", "last row"]),
    ],
)
def test_wrong_entries_are_named(tmp_path, tables, change, words):
    root = write(tmp_path, tables)
    change(tables["train"])
    (root / "transforms_train.json").write_text(json.dumps(tables["train"]))
    refused(root, root / "transforms_train.json", *words)


def test_matrix_that_is_no_rotation_says_by_how_much(tmp_path, tables):
    root = write(tmp_path, tables)
    file = root / "transforms_train.json"
    matrix = tables["train"]["frames"][2]["transform_matrix"]
    matrix[2][2] = 1.1  # R R^T has 1.21 on its diagonal
    file.write_text(json.dumps(tables["train"]))
    refused(root, file, "train/r_2", "not a rotation", "0.21")
    matrix[2][2] = -1.0
    file.write_text(json.dumps(tables["train"]))
    refused(root, file, "train/r_2", "mirrors")
    matrix[2][2] = 1.0004  # four digits, as programs write them
    file.write_text(json.dumps(tables["train"]))
    load_blender(root)


@pytest.mark.parametrize("spelled", ["train/r_1.png", "./train/../train/r_1", "train/link.png"])
def test_an_image_may_stand_in_one_frame_only(tmp_path, tables, spelled):
    root = write(tmp_path, tables)
    (root / "train" / "link.png").symlink_to("r_1.png")

    def save(split, frame):
        changed = json.loads(json.dumps(tables[split]))
        changed["frames"][frame]["file_path"] = spelled
        (root / f"transforms_{split}.json").write_text(json.dumps(changed))

    save("train", 2)
    refused(root, f"{root / 'transforms_train.json'}: frame 2 ({spelled}): the same image as frame 1 (./train/r_1)")
    save("train", 1)
    save("test", 3)
    refused(
        root, f"{root / 'transforms_test.json'}: frame 3 ({spelled}):", f"as {root / 'transforms_train.json'}: frame 1"
    )
    save("test", 0)
    tables["test"]["frames"][0]["file_path"] = "./test/r_0"
    (root / "transforms_test.json").write_text(json.dumps(tables["test"]))
    save("val", 1)  # views to watch may be any
    assert load_blender(root).images[4].equal(load_blender(root).images[1])


def test_lego(data):
    root = data / "nerf_synthetic" / "lego"
    if not root.is_dir():
        pytest.skip(f"no lego scene at {root}")
    scene = load_blender(root, image_size=100, testskip=50)
    assert {name: len(views) for name, views in scene.split.items()} == {"train": 100, "val": 0, "test": 4}
    assert scene.names[101] == "test/r_50.png"
    # The published focal length, 1111.111 pixels at 800, is 138.889 at 100.
    assert scene.cameras.intrinsics[0].tolist() == pytest.approx([138.8889, 138.8889, 50, 50], abs=1e-3)
    with Image.open(root / "test" / "r_50.png") as image:
        original = np.asarray(image, dtype=np.float64)
    block = original[400:408, 320:328].reshape(64, 4)  # the pixels below row 50, column 40
    alpha = block[:, 3].mean()
    colour = (block[:, :3] * block[:, 3:]).mean(0) / alpha
    assert alpha == 255
    assert np.abs(scene.images[101, 50, 40].numpy() - [*colour, alpha]).max() <= 0.5 + 1e-3
    matrix = json.loads((root / "transforms_test.json").read_text())["frames"][50]["transform_matrix"]
    assert torch.equal(scene.cameras.poses[101], torch.tensor(matrix[:3]))
    # Its cameras stand 4 units from the origin and look at it.
    centres = scene.cameras.poses[:, :, 3]
    assert torch.allclose(centres, 4.0311 * scene.cameras.poses[:, :, 2], atol=1e-3)
