"""LINEMOD scenes as nerf-pytorch reads them: frames with an intrinsic_matrix, near and far in the files."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from nerf_dfa.errors import UserError
from nerf_dfa.rendering.rays import image_rays
from nerf_dfa.scenes import load_scene
from nerf_dfa.scenes.linemod import is_linemod, load_linemod
from nerf_dfa.scenes.load import recognise

WIDTH, HEIGHT = 16, 12
MATRIX = [[14.3, 0, 8.1], [0, 14.4, 6.05], [0, 0, 1]]
COUNTS = {"train": 4, "val": 2, "test": 5}
BOUNDS = {"train": (0.73, 1.21), "val": (0.9, 1.1), "test": (0.81, 2.3)}


def pose(index):
    angle = 0.3 * index
    c, s = np.cos(angle), np.sin(angle)
    return [[c, -s, 0, 0.1 * index], [s, c, 0, 0.2], [0, 0, 1, 1.0], [0, 0, 0, 1]]


def write(root, mode="RGB", path=lambda root, name: str(root / name)):
    rng = np.random.default_rng(0)
    tables, index = {}, 0
    for split, count in COUNTS.items():
        frames = []
        for i in range(count):
            name = f"{split}/{i:03}.jpg" if mode == "RGB" else f"{split}/{i:03}.png"
            (root / split).mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (HEIGHT, WIDTH, len(mode)), dtype=np.uint8)).save(root / name)
            matrix = [[MATRIX[0][0] + index, *MATRIX[0][1:]], *MATRIX[1:]]
            frames.append(dict(file_path=path(root, name), transform_matrix=pose(index), intrinsic_matrix=matrix))
            index += 1
        near, far = BOUNDS[split]
        tables[split] = dict(near=near, far=far, frames=frames)
        save(root, split, tables[split])
    return root, tables


def save(root, split, table):
    (root / f"transforms_{split}.json").write_text(json.dumps(table))


def refused(root, *words, **options):
    with pytest.raises(UserError) as error:
        load_linemod(root, **options)
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message, message


def test_scene_as_written(tmp_path):
    root, _ = write(tmp_path / "duck")
    scene = load_linemod(root)
    assert scene.name == "duck"
    assert scene.images.shape == (11, HEIGHT, WIDTH, 3)
    assert scene.split == {"train": (0, 1, 2, 3), "val": (4, 5), "test": (6, 7, 8, 9, 10)}
    assert (scene.near, scene.far, scene.ndc, scene.up) == (0.0, 3.0, False, (0.0, 0.0, 1.0))
    assert scene.depth_range == (0.73, 2.3)
    assert np.abs(scene.cameras.poses[7].numpy() - np.array(pose(7))[:3]).max() < 1e-6
    with Image.open(root / "test" / "001.jpg") as image:
        assert np.array_equal(scene.images[7].numpy(), np.asarray(image))
    assert (load_linemod(root, near=0.5, far=2.0).near, load_linemod(root, far=2.0).far) == (0.5, 2.0)


def test_rays_are_those_of_nerf_pytorch(tmp_path):
    """Its ray of column j and row i is R ((j - cx) / fx, -(i - cy) / fy, -1), with no half pixel."""
    root, _ = write(tmp_path)
    scene = load_linemod(root)
    view = 3
    rays = image_rays(scene.cameras, view, scene.near, scene.far)
    j, i = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    fx, fy, cx, cy = 14.3 + view, 14.4, 8.1, 6.05
    directions = np.stack([(j - cx) / fx, -(i - cy) / fy, -np.ones_like(j)], -1) @ np.array(pose(view))[:3, :3].T
    assert np.abs(rays.directions.numpy() - directions).max() < 1e-5
    assert np.abs(rays.origins.numpy() - np.array(pose(view))[:3, 3]).max() < 1e-6


def test_size_and_testskip(tmp_path):
    root, _ = write(tmp_path)
    scene = load_linemod(root, half_res=True, testskip=2)
    assert scene.images.shape == (8, 6, 8, 3)
    assert scene.split == {"train": (0, 1, 2, 3), "val": (4,), "test": (5, 6, 7)}
    assert scene.names[-1].endswith("test/004.jpg")
    full = load_linemod(root)
    assert torch.allclose(scene.cameras.intrinsics[0], full.cameras.intrinsics[0] / 2)
    assert load_linemod(root, image_size=4).images.shape[1:3] == (3, 4)
    refused(root, "half_res", "image_size", half_res=True, image_size=4)
    refused(root, "testskip -1", testskip=-1)


@pytest.mark.parametrize(
    "path",
    [
        lambda root, name: name,
        lambda root, name: f"./{name.removesuffix('.jpg')}",
        lambda root, name: f"/home/someone/data/duck/{name}",
        lambda root, name: f"/home/someone/data/duck/{name}".removesuffix(".jpg"),
        lambda root, name: f"C:\\data\\duck\\{name}".replace("/", "\\"),
    ],
)
def test_file_paths(tmp_path, path):
    """Relative, without extension, and absolute ones of another computer."""
    here, _ = write(tmp_path / "here")
    there, _ = write(tmp_path / "there", path=path)
    scene = load_linemod(there)
    assert torch.equal(scene.images, load_linemod(here).images)
    assert scene.names[5] == "val/001.jpg"


def test_told_apart_from_blender(tmp_path):
    root, tables = write(tmp_path / "linemod", "RGBA")
    assert recognise(root) == "LINEMOD"
    assert load_scene(root).far == 3.0
    for frame in tables["train"]["frames"]:
        del frame["intrinsic_matrix"]
    save(root, "train", tables["train"] | {"camera_angle_x": 0.7})
    assert recognise(root) == "blender"
    for text in ("", "[]", '{"frames": []}', '{"frames": [3]}', '{"frames": 3}'):
        (root / "transforms_train.json").write_text(text)
        assert not is_linemod(root)
    assert not is_linemod(tmp_path)


def test_missing_files_are_named(tmp_path):
    refused(tmp_path / "nowhere", "no such folder")
    refused(tmp_path, tmp_path / "transforms_train.json", "no such file")
    root, _ = write(tmp_path / "duck")
    (root / "test" / "002.jpg").unlink()
    refused(root, root / "transforms_test.json", "frame 2", "002.jpg", "no such image")
    (root / "train" / "001.jpg").write_bytes((root / "train" / "001.jpg").read_bytes()[:-50])
    (root / "test" / "002.jpg").write_bytes((root / "test" / "003.jpg").read_bytes())
    refused(root, "001.jpg", "damaged")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda t: t.pop("near"), ["near is missing"]),
        (lambda t: t.update(far="x"), ["far is 'x'"]),
        (lambda t: t.update(far=float("nan")), ["far is nan"]),
        (lambda t: t.update(far=-3, near=-5), ["0 <= near < far"]),
        (lambda t: t.update(frames=[]), ["frames is empty"]),
        (lambda t: t["frames"][1].pop("transform_matrix"), ["frame 1", "transform_matrix is missing"]),
        (lambda t: t["frames"][1].pop("intrinsic_matrix"), ["frame 1", "intrinsic_matrix is missing"]),
        (lambda t: t["frames"][1].pop("file_path"), ["frame 1", "file_path is missing"]),
        (lambda t: t["frames"][1].update(file_path="/"), ["frame 1", "no such image"]),
        (lambda t: t["frames"][1].update(intrinsic_matrix=[[1, 0], [0, 1]]), ["frame 1", "3 rows of 3"]),
        (lambda t: t["frames"][1].update(intrinsic_matrix=[[-1, 0, 0], [0, 1, 0], [0, 0, 1]]), ["fx and fy above 0"]),
        (lambda t: t["frames"][1].update(intrinsic_matrix=[[9, 1, 0], [0, 9, 0], [0, 0, 1]]), ["[fx 0 cx]"]),
        (lambda t: t["frames"][1]["intrinsic_matrix"][0].__setitem__(2, float("nan")), ["frame 1", "3 finite"]),
        (lambda t: t["frames"][1]["transform_matrix"][0].__setitem__(0, 2), ["frame 1", "not a rotation"]),
        (lambda t: t["frames"][1]["transform_matrix"][0].__setitem__(3, float("nan")), ["frame 1", "not finite"]),
        (lambda t: t["frames"].append(t["frames"][1]), ["frame 4", "the same image as frame 1"]),
    ],
)
def test_wrong_entries_are_named(tmp_path, spoil, words):
    root, tables = write(tmp_path)
    spoil(tables["train"])
    if tables["train"].get("far") == -3:
        for split in ("val", "test"):
            save(root, split, tables[split] | {"far": -3, "near": -5})
    save(root, "train", tables["train"])
    refused(root, root / "transforms_train.json", *words)


def test_an_image_may_not_stand_in_train_and_test(tmp_path):
    root, tables = write(tmp_path)
    tables["val"]["frames"][0]["file_path"] = tables["train"]["frames"][0]["file_path"]
    save(root, "val", tables["val"])
    load_linemod(root)
    tables["test"]["frames"][3]["file_path"] = "train/002"
    save(root, "test", tables["test"])
    refused(root, f"{root / 'transforms_test.json'}: frame 3 (train/002)", f"{root / 'transforms_train.json'}: frame 2")


def test_absolute_paths_into_the_folder_are_relative_to_it(tmp_path, monkeypatch):
    root, _ = write(tmp_path / "duck")
    assert load_linemod(root).names[5] == "val/001.jpg"
    (tmp_path / "link").symlink_to(root)
    assert load_linemod(tmp_path / "link").names[5] == "val/001.jpg"
    monkeypatch.chdir(tmp_path)
    assert load_linemod("duck").names[5] == "val/001.jpg"
    elsewhere, _ = write(tmp_path / "other", path=lambda _, name: str(root / name))
    shutil.rmtree(elsewhere / "val")
    # Those that lie elsewhere stay as they are written.
    assert load_linemod(elsewhere).names[3:6] == tuple(
        str(root / n) for n in ("train/003.jpg", "val/000.jpg", "val/001.jpg")
    )


def test_cut_json_and_mixed_images(tmp_path):
    root, _ = write(tmp_path)
    file = root / "transforms_val.json"
    whole = file.read_text()
    file.write_text(whole[:100])
    refused(root, file, "not valid JSON")
    file.write_text(whole)
    Image.new("RGBA", (WIDTH, HEIGHT)).save(root / "val" / "001.jpg", format="PNG")
    refused(root, "001.jpg has alpha", "000.jpg not")
