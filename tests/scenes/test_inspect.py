"""Inspection of sound folders and of folders in which everything is wrong at once."""

import json
import math
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from nerf_dfa.nerf.flags import parse
from nerf_dfa.rendering.cameras import Cameras
from nerf_dfa.scenes import load_scene
from nerf_dfa.scenes.frusta import corners, draw_cameras, upright
from nerf_dfa.scenes.inspect import inspect_scene, main
from nerf_dfa.scenes.paths import look_at
from nerf_dfa.scenes.survey import suitable_factor


def picture(root, name, seed, size=(8, 6), mode="RGB"):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], len(mode)), dtype=np.uint8)
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(root / name)


def pose_around(angle, height=1.0):
    centre = torch.tensor([4 * math.cos(angle), 4 * math.sin(angle), height], dtype=torch.float64)
    pose = look_at(centre, torch.zeros(3).double(), torch.tensor([0, 0, 1.0]).double())
    return [*pose.tolist(), [0, 0, 0, 1]]


def blender(root, count=6, mode="RGB", **extra):
    """A sound scene; extra: other entries of the training file."""
    for split, first in (("train", 0), ("test", 100)):
        frames = []
        for i in range(count):
            picture(root, f"{split}/r_{i}.png", first + i, mode=mode)
            frames.append({"file_path": f"./{split}/r_{i}", "transform_matrix": pose_around(first + i)})
        table = {"camera_angle_x": 0.9, "frames": frames, **extra}
        (root / f"transforms_{split}.json").write_text(json.dumps(table))
    return root


def forward_rows(count=8):
    """Rows of poses_bounds.npy: cameras in a plane that look along -z, apart from small turns about y."""
    rows = []
    for i in range(count):
        a = 0.02 * (i - count / 2)
        right, up, back = [math.cos(a), 0, -math.sin(a)], [0, 1, 0], [math.sin(a), 0, math.cos(a)]
        matrix = np.stack([-np.array(up), right, back, [i * 0.1, (i % 3) * 0.1, 0], [48, 64, 50.0]], axis=1)
        rows.append([*matrix.ravel(), 2.0, 9.0])
    return np.array(rows)


def llff(root, rows, folder="images_8"):
    for i in range(len(rows)):
        picture(root, f"{folder}/p_{i:02}.png", i)
    np.save(root / "poses_bounds.npy", rows)
    return root


def facts(root, **options):
    found = inspect_scene(root, **options)
    return dict(found.lines), found


def options_of(command):
    """The options that train.py makes of a suggested command line."""
    words = shlex.split(command)
    assert words[:2] == ["python", "train.py"]
    return parse(words[2:])[0]


def test_a_sound_blender_scene(tmp_path):
    lines, found = facts(blender(tmp_path / "ring", mode="RGBA"))
    assert found.problems == []
    assert lines["scene"] == "ring, blender (transforms_train.json)"
    assert lines["images"].startswith("12 of 8x6 pixels, RGBA")
    focal, down = 4 / math.tan(0.45), 2 * math.degrees(math.atan(3 / 4 * math.tan(0.45)))
    assert f"focal length {focal:.5g} pixels at 8x6," in lines["cameras"]
    assert f"{math.degrees(0.9):.1f} x {down:.1f} degrees, no distortion" in lines["cameras"]
    assert lines["split"] == "6 train, 0 val, 6 test"
    assert lines["bounds"].startswith("near 2, far 6")
    assert f"z 1 to 1; {math.sqrt(17):.5g} from (0, 0, 0)" in lines["positions"]
    mean = np.array([pose_around(a) for s in (0, 100) for a in range(s, s + 6)])[:, :3, 2].mean(0)
    assert lines["facing"].startswith(
        f"around (360 degrees): the mean viewing direction has length {np.linalg.norm(mean):.3f}"
    )
    assert lines["NDC"].startswith("no")
    options = options_of(lines["train"])
    assert (options.datadir, options.field, options.white_bkgd) == (str(tmp_path / "ring"), "grid", True)
    assert (options.expname, options.dataset_type, options.lrate) == ("ring_dfa", "auto", 1e-2)


def test_opaque_images_need_no_white_background(tmp_path):
    assert "white_bkgd" not in facts(blender(tmp_path))[0]["train"]


def test_forward_facing_with_ndc(tmp_path):
    lines, found = facts(llff(tmp_path, forward_rows()))
    assert found.problems == []
    assert lines["facing"].startswith("forward")
    assert lines["NDC"].startswith("yes")
    assert "near 0, far 1" in lines["bounds"]
    assert f"depths {4 / 3:.4g} to 6" in lines["bounds"]
    assert not {"--no_ndc", "--spherify", "--factor"} & set(shlex.split(lines["train"]))
    assert lines["split"].endswith("1 val, 1 test: the same views")
    assert options_of(lines["train"]).grid_depth == 0.25


def test_around_without_ndc_and_the_factor_that_is_there(tmp_path):
    rows = forward_rows()
    for i, row in enumerate(rows):
        x, y, z, t = np.array(pose_around(2 * math.pi * i / len(rows)))[:3].T
        row[:15] = np.stack([-y, x, z, t, [48, 64, 50.0]], axis=1).ravel()
    lines, found = facts(llff(tmp_path, rows, "images_4"))
    assert found.problems == []
    options = options_of(lines["train"])
    assert (options.no_ndc, options.spherify, options.factor) == (True, True, 4)
    assert lines["facing"].startswith("around")
    assert lines["NDC"].startswith("no")
    # What it suggests is what it looked at.
    scene = load_scene(tmp_path, factor=4, ndc=False, spherify=True)
    assert torch.equal(scene.cameras.poses, found.scene.cameras.poses)


def test_the_factor_may_be_chosen(tmp_path, capsys):
    root = llff(tmp_path / "front", forward_rows())
    shutil.copytree(root / "images_8", root / "images_4")
    lines, _ = facts(root, factor=4)
    assert options_of(lines["train"]).factor == 4
    assert main([str(blender(tmp_path / "ring")), "--factor", "2"]) == 2
    assert "--factor has no effect here: blender" in capsys.readouterr().err


def test_originals_get_the_factor_that_suits_them(tmp_path):
    root = llff(tmp_path, forward_rows(), "images")
    options = options_of(facts(root)[0]["train"])
    assert options.factor == 1
    assert inspect_scene(root).scene.images.shape[2] == 8
    assert [suitable_factor(width) for width in (100, 1000, 1001, 1920, 4000, 4032)] == [1, 1, 2, 2, 4, 8]


def test_colmap_and_images_without_a_pose(tmp_path):
    names = [f"p{i}.png" for i in range(13)] + ["more/q.png", "p5_mask.png"]
    for i, name in enumerate(names):
        picture(tmp_path, f"images/{name}", i)
    model = tmp_path / "sparse/0"
    model.mkdir(parents=True)
    (model / "cameras.txt").write_text("1 OPENCV 8 6 9 9 4 3 0.01 0 0.002 0\n")
    sees = " ".join(f"4 3 {k}" for k in range(9))
    rows = [f"{i + 1} 1 0 0 0 {-0.1 * i} 0 4 1 p{i}.png\n{sees}\n" for i in range(6)]
    (model / "images.txt").write_text("".join(rows))
    points = [(x, y, 3 + 0.1 * x * y) for x in (-1, 0, 1) for y in (-1, 0, 1)]
    (model / "points3D.txt").write_text("".join(f"{i} {x} {y} {z} 9 9 9 0.5\n" for i, (x, y, z) in enumerate(points)))
    lines, found = facts(tmp_path)
    assert found.scene is not None, found.problems
    assert lines["scene"].endswith("colmap (a COLMAP model in sparse/0)")
    assert "distortion k1 0.01, p1 0.002" in lines["cameras"]
    alone = [f"{tmp_path / 'images' / name}: an image without a pose" for name in names[6:]]
    assert sorted(found.problems) == sorted(alone)
    assert options_of(lines["train"]).factor == 1


@pytest.mark.parametrize("absolute", ["", "{root}/", "/home/someone/duck/"])
@pytest.mark.parametrize("lens", ["LINEMOD", "blender"])
def test_file_paths_may_be_absolute(tmp_path, absolute, lens):
    root = blender(tmp_path / "duck", near=2, far=6)
    for file in root.glob("*.json"):
        table = json.loads(file.read_text())
        for frame in table["frames"]:
            frame["file_path"] = absolute.format(root=root) + frame["file_path"].removeprefix("./")
            if lens == "LINEMOD":
                frame["intrinsic_matrix"] = [[9, 0, 4], [0, 9, 3], [0, 0, 1]]
        file.write_text(json.dumps(table))
    lines, found = facts(root)
    if lens == "blender" and "someone" in absolute:  # whose loader looks for them where they are said to be
        (problem,) = found.problems
        assert "/home/someone/duck/train/r_0.png: no such image" in problem
    else:
        assert found.problems == []
        assert lines["scene"].startswith(f"duck, {lens}")
    assert lines["images"].startswith("12 of 8x6")


def test_a_duplicate_is_listed_once(tmp_path):
    root = blender(tmp_path)
    table = json.loads((root / "transforms_test.json").read_text())
    table["frames"][3] |= {"file_path": table["frames"][1]["file_path"]}
    (root / "transforms_test.json").write_text(json.dumps(table))
    file = root / "transforms_test.json"
    assert sorted(inspect_scene(root).problems) == [
        f"{root / 'test/r_3.png'}: an image without a pose",
        f"{file}: frame 3 (./test/r_1): the same image as frame 1 (./test/r_1)",
    ]
    table["frames"][3]["file_path"] = "train/r_2.png"
    file.write_text(json.dumps(table))
    assert sorted(inspect_scene(root).problems) == [
        f"{root / 'test/r_3.png'}: an image without a pose",
        f"{file}: frame 3 (train/r_2.png): the same image as {root / 'transforms_train.json'}: frame 2 (./train/r_2)",
    ]


def test_every_problem_is_listed(tmp_path):
    root = blender(tmp_path / "bad", count=12)
    table = json.loads((root / "transforms_train.json").read_text())
    frames = table["frames"]
    (root / "train/r_1.png").write_bytes((root / "train/r_1.png").read_bytes()[:60])
    (root / "train/r_2.png").unlink()
    picture(root, "train/r_3.png", 3, size=(7, 6))
    picture(root, "train/r_4.png", 4, mode="RGBA")
    (root / "train/r_5.png").write_bytes((root / "train/r_6.png").read_bytes())
    frames[7]["transform_matrix"][0][0] += 0.5
    del frames[8]["transform_matrix"]
    frames[9]["file_path"] = frames[10]["file_path"]
    del frames[11]["file_path"]
    picture(root, "train/r_6_depth_0000.png", 50)
    (root / "transforms_train.json").write_text(json.dumps(table))
    (root / "transforms_test.json").write_text("{")
    lines, found = facts(root)
    assert found.scene is None
    expected = [
        ("transforms_test.json", "not valid JSON"),
        ("train/r_1.png", "damaged"),
        ("train/r_2.png", "no such image"),
        ("train/r_3.png", "7x6 pixels; most images have 8x6"),
        ("train/r_4.png", "RGBA; most images are RGB"),
        ("train/r_6.png", "the same picture as train/r_5.png"),
        ("frame 7 (./train/r_7)", "not a rotation"),
        ("frame 8 (./train/r_8)", "transform_matrix is missing"),
        ("frame 10 (./train/r_10)", "the same image as frame 9 (./train/r_10)"),
        ("frame 11", "file_path is missing"),
        ("train/r_9.png", "an image without a pose"),
        ("train/r_11.png", "an image without a pose"),
    ]
    for words in expected:
        assert sum(all(word in problem for word in words) for problem in found.problems) == 1, words
    assert len(found.problems) == len(expected)
    assert lines["facing"].startswith("around")
    assert "train" not in lines


def test_the_same_pose_twice(tmp_path):
    root = blender(tmp_path)
    table = json.loads((root / "transforms_test.json").read_text())
    table["frames"][3]["transform_matrix"] = table["frames"][1]["transform_matrix"]
    (root / "transforms_test.json").write_text(json.dumps(table))
    (problem,) = inspect_scene(root).problems
    assert problem.startswith(f"{root / 'transforms_test.json'}: frame 3")
    assert "the same pose as frame 1" in problem


def test_val_and_test_may_be_the_same_views(tmp_path):
    root = blender(tmp_path)
    (root / "transforms_val.json").write_text((root / "transforms_test.json").read_text())
    assert inspect_scene(root).problems == []


def test_rows_of_poses_bounds_are_all_looked_at(tmp_path):
    rows = forward_rows()
    rows[1, 0] = np.nan
    rows[3, 15] = np.nan
    rows[5, 14] = -1
    root = llff(tmp_path, rows)
    (root / "images_8/p_07.png").unlink()
    found = inspect_scene(root)
    file = root / "poses_bounds.npy"
    for word in (f"{file}: view 1", f"{file}: view 3: depth bounds nan", f"{file}: view 5", "8 poses", "7 images"):
        assert any(word in problem for problem in found.problems), word
    np.save(root / "poses_bounds.npy", rows[:, :16])
    assert any("17 numbers" in problem for problem in inspect_scene(root).problems)


def test_the_loaders_own_error_is_a_problem(tmp_path):
    root = blender(tmp_path, near=7.0)
    (problem,) = inspect_scene(root).problems
    assert "near 7 and far 6" in problem


def test_a_folder_of_no_format(tmp_path, capsys):
    picture(tmp_path, "a.png", 0)
    assert main([str(tmp_path), "--out", str(tmp_path / "x.png")]) == 1
    text = capsys.readouterr().out
    assert "1 of 8x6 pixels" in text
    assert "no scene here" in text
    assert "no camera to draw" in text
    assert main([str(tmp_path / "nowhere")]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_the_program(tmp_path, capsys):
    root = blender(tmp_path / "ring")
    assert main([str(root), "--out", str(tmp_path / "new/ring.png")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].split() == ["problems", "none"]
    with Image.open(tmp_path / "new/ring.png") as image:
        assert image.format == "PNG"
    (root / "train/r_0.png").unlink()
    assert main([str(root), "--out", str(tmp_path / "ring.png")]) == 1
    assert (tmp_path / "ring.png").is_file()  # the poses are there
    assert main([str(root), "--out", str(root / "transforms_train.json" / "x.png")]) == 1
    assert "cannot be written" in capsys.readouterr().out


def test_it_does_not_shadow_the_standard_library(tmp_path):
    command = [sys.executable, "-m", "nerf_dfa.scenes.inspect", str(tmp_path), "--out", str(tmp_path / "x.png")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == ""
    assert "no scene here" in done.stdout


def test_corners_project_back_to_the_image():
    rng = np.random.default_rng(0)
    matrix, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    matrix *= np.linalg.det(matrix)
    pose = torch.tensor(np.c_[matrix, rng.normal(size=3)]).float()
    cameras = Cameras(pose[None], torch.tensor([[50.0, 40.0, 11.0, 9.0]]), 30, 20)
    local = (corners(cameras, 3.0)[0].numpy() - pose[:, 3].numpy()) @ pose[:, :3].numpy()
    assert np.abs(local[:, 2] + 3).max() < 1e-5
    columns, rows = 50 * local[:, 0] / 3 + 11, 9 - 40 * local[:, 1] / 3
    assert np.abs(np.stack([columns, rows], 1) - [[0, 20], [30, 20], [30, 0], [0, 0]]).max() < 1e-4


@pytest.mark.parametrize("up", [(0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0), (0.6, -0.48, 0.64)])
def test_upright(up):
    turn = upright(up)
    assert torch.allclose(turn @ torch.tensor(up).double(), torch.tensor([0, 0, 1.0]).double(), atol=1e-7)
    assert torch.allclose(turn @ turn.T, torch.eye(3).double(), atol=1e-7)
    assert torch.linalg.det(turn).item() == pytest.approx(1)


def test_the_drawing_has_the_colours_of_train_and_test(tmp_path):
    poses = torch.tensor([pose_around(a) for a in range(12)])[:, :3]
    cameras = Cameras(poses, torch.tensor([[50.0, 50.0, 20.0, 20.0]]).expand(12, 4), 40, 40)
    file = tmp_path / "a.png"

    def share(colour):
        with Image.open(file) as image:
            pixels = np.asarray(image.convert("RGB")).astype(int)
        return (np.abs(pixels - colour).max(-1) < 80).sum()

    blue, orange, red = (31, 119, 180), (255, 127, 14), (214, 39, 40)
    draw_cameras(file, cameras, {"train": range(12)}, depths=(2.0, 6.0))
    alone = share(blue)
    assert alone > 300
    assert share(red) > 300
    draw_cameras(file, cameras, {"train": range(6), "test": range(6, 12)})
    assert share(orange) > 300
    assert share(red) < 50
    assert share(blue) < 0.8 * alone


def test_fern(data):
    root = data / "nerf_llff_data" / "fern"
    if not root.is_dir():
        pytest.skip(f"no fern scene at {root}")
    lines, found = facts(root)
    assert found.problems == []
    assert lines["images"] == "20 of 504x378 pixels, RGB, 11 MB decoded"
    assert "focal length 407.57" in lines["cameras"]
    assert lines["facing"].startswith("forward")
    assert lines["NDC"].startswith("yes")
