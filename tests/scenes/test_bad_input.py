"""Damaged scenes of every format, as a person meets them: train.py says one line, and inspect lists the same."""

import json
import math
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from nerf_dfa.nerf import train
from nerf_dfa.scenes.inspect import inspect_scene
from nerf_dfa.scenes.paths import look_at

COUNT, SIDE, FOCAL = 10, 8, 9.0
TEST = (0, 8)  # what llffhold 8 holds out
TRAIN = tuple(i for i in range(COUNT) if i not in TEST)
SMALL = "--netdepth 1 --netwidth 4 --N_samples 2 --N_rand 2 --N_iters 1 --frames 1 --device cpu".split()
FLAGS = {"llff": ["--factor", "1"], "colmap": ["--factor", "1"]}
FORMATS = ("blender", "LINEMOD", "llff", "transforms", "colmap", "deepvoxels")


def poses():
    """Cameras in a row that look at one point, OpenGL camera-to-world, 3 x 4."""
    target, up = torch.tensor([0.0, 0, -4]).double(), torch.tensor([0.0, 1, 0]).double()
    centres = torch.tensor([[0.2 * i - 1, 0.1 * (i % 3), 0] for i in range(COUNT)]).double()
    return [look_at(centre, target, up).numpy() for centre in centres]


def place(form, view):
    """The image of a view, relative to the scene's folder."""
    split = "test" if view in TEST else "train"
    number = (TEST if view in TEST else TRAIN).index(view)
    return {
        "blender": f"{split}/r_{number}.png",
        "LINEMOD": f"{split}/r_{number}.png",
        "deepvoxels": f"{split}/rgb/{number:06}.png",
    }.get(form, f"images/{view:03}.png")


def picture(path, seed, channels=3):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, channels), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def write_json(root, form):
    frames = [
        {"file_path": place(form, view), "transform_matrix": [*pose.tolist(), [0, 0, 0, 1]]}
        for view, pose in enumerate(poses())
    ]
    if form == "transforms":
        return save(root, "transforms.json", {"fl_x": FOCAL, "w": SIDE, "h": SIDE, "frames": frames})
    extra = {"camera_angle_x": 2 * math.atan(SIDE / 2 / FOCAL), "near": 2.0, "far": 6.0}
    if form == "LINEMOD":
        for frame in frames:
            frame["intrinsic_matrix"] = [[FOCAL, 0, SIDE / 2], [0, FOCAL, SIDE / 2], [0, 0, 1]]
    for split, views in (("train", TRAIN), ("test", TEST)):
        save(root, f"transforms_{split}.json", {**extra, "frames": [frames[view] for view in views]})


def save(root, name, table):
    (root / name).write_text(json.dumps(table))


def write_llff(root):
    size = np.array([[SIDE], [SIDE], [FOCAL]])
    rows = [np.r_[np.c_[-p[:, 1], p[:, 0], p[:, 2], p[:, 3], size].ravel(), 2.0, 6.0] for p in poses()]
    np.save(root / "poses_bounds.npy", rows)


def quaternion(rotation):
    """(w, x, y, z) of a rotation by less than half a turn."""
    w = math.sqrt(1 + np.trace(rotation)) / 2
    x, y, z = (rotation[k, j] - rotation[j, k] for j, k in ((1, 2), (2, 0), (0, 1)))
    return [w, *(np.array([x, y, z]) / (4 * w))]


def write_colmap(root):
    """The model has axes x right, y down, z ahead in the world as in the cameras."""
    flip = np.diag([1, -1, -1])
    model = root / "sparse/0"
    model.mkdir(parents=True)
    (model / "cameras.txt").write_text(f"1 SIMPLE_PINHOLE {SIDE} {SIDE} {FOCAL} {SIDE / 2} {SIDE / 2}\n")
    points = [(x, y, 4 + z) for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-0.5, 0.5)]
    sees = " ".join(f"4 3 {i}" for i in range(len(points)))
    lines = []
    for view, pose in enumerate(poses()):
        turn = (flip @ pose[:, :3] @ flip).T
        numbers = [*quaternion(turn), *(-turn @ flip @ pose[:, 3])]
        lines += [f"{view + 1} {' '.join(map(repr, map(float, numbers)))} 1 {view:03}.png", sees]
    (model / "images.txt").write_text("\n".join(lines) + "\n")
    text = [f"{i} {x} {y} {z} 9 9 9 0.5 1 {i}" for i, (x, y, z) in enumerate(points)]
    (model / "points3D.txt").write_text("\n".join(text) + "\n")


def write_deepvoxels(root):
    for split, views in (("train", TRAIN), ("test", TEST)):
        (root / split / "pose").mkdir(parents=True, exist_ok=True)
        text = f"{FOCAL} {SIDE / 2} {SIDE / 2} 0\n0 0 0\n0\n1\n{SIDE} {SIDE}\n"
        (root / split / "intrinsics.txt").write_text(text)
        for number, view in enumerate(views):
            matrix = np.r_[poses()[view] * [1, -1, -1, 1], [[0, 0, 0, 1]]]
            matrix[2, 3] += 4  # about the origin, where such scenes are
            np.savetxt(root / split / "pose" / f"{number:06}.txt", matrix)


def write(root, form):
    root.mkdir()
    for view in range(COUNT):
        picture(root / place(form, view), view)
    writers = {"llff": write_llff, "colmap": write_colmap, "deepvoxels": write_deepvoxels}
    writers[form](root) if form in writers else write_json(root, form)
    return root


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    return {form: write(folder / form, form) for form in FORMATS}


def run(root, form, capsys, *flags):
    """Exit status of train.py and what it says to stderr, without the bar."""
    command = ["--datadir", str(root), "--basedir", str(root.parent), "--expname", "run"]
    status = train.main([*command, "--dataset_type", form, *FLAGS.get(form, []), *SMALL, *flags])
    return status, capsys.readouterr().err


@pytest.mark.parametrize("form", FORMATS)
def test_the_sound_scenes_are_sound(sound, tmp_path, form, capsys):
    root = shutil.copytree(sound[form], tmp_path / "scene")
    status, said = run(root, form, capsys)
    assert status == 0
    assert "warning" not in said
    found = inspect_scene(root)
    assert found.problems == []
    assert found.lines[0][1].startswith(f"scene, {form}")


def edit(name, change):
    """A fault: a change of the table in a JSON file."""

    def spoil(root):
        table = json.loads((root / name).read_text())
        change(table)
        save(root, name, table)

    return spoil


def frame(name, change, index=1):
    return edit(name, lambda table: change(table["frames"][index]))


def text(name, old, new):
    """A fault: some text of a file replaced, at its first place."""

    def spoil(root):
        before = (root / name).read_text()
        assert old in before
        (root / name).write_text(before.replace(old, new, 1))

    return spoil


def row(index, column, value):
    """A fault: another number in poses_bounds.npy."""

    def spoil(root):
        table = np.load(root / "poses_bounds.npy")
        table[index, column] = value
        np.save(root / "poses_bounds.npy", table)

    return spoil


def matrix(value):
    return lambda f: f["transform_matrix"][0].__setitem__(0, value)


def turned(value):
    """A fault: another first number of the quaternion of 003.png."""

    def spoil(root):
        lines = (root / MODEL / "images.txt").read_text().splitlines()
        number, _, *rest = lines[6].split()
        lines[6] = " ".join([number, str(value), *rest])
        (root / MODEL / "images.txt").write_text("\n".join(lines) + "\n")

    return spoil


def first_number(name, value):
    def spoil(root):
        words = (root / name).read_text().split(" ")
        (root / name).write_text(" ".join([value, *words[1:]]))

    return spoil


TR, TE, ONE = "transforms_train.json", "transforms_test.json", "transforms.json"
MODEL = "sparse/0"
# Of each kind of damage: the format, what is done, and words of the one line.
FAULTS = {
    "a missing key": [
        ("blender", edit(TR, lambda t: t.pop("camera_angle_x")), [TR, "camera_angle_x is missing"]),
        ("blender", frame(TE, lambda f: f.pop("transform_matrix")), [TE, "frame 1 (test/r_1", "transform_matrix is m"]),
        ("LINEMOD", edit(TE, lambda t: t.pop("far")), [TE, "far is missing"]),
        ("LINEMOD", frame(TR, lambda f: f.pop("intrinsic_matrix")), [TR, "frame 1", "intrinsic_matrix is missing"]),
        ("transforms", edit(ONE, lambda t: t.pop("fl_x")), [ONE, "fl_x", "missing"]),
        ("transforms", frame(ONE, lambda f: f.pop("file_path")), [ONE, "frame 1", "file_path is missing"]),
        ("deepvoxels", text("train/intrinsics.txt", f"{SIDE} {SIDE}\n", ""), ["train/intrinsics.txt", "expected"]),
        ("colmap", text(f"{MODEL}/cameras.txt", f" {SIDE / 2}\n", "\n"), ["cameras.txt", "camera 1", "f, cx, cy"]),
        (
            "llff",
            lambda root: np.save(root / "poses_bounds.npy", np.ones((10, 16))),
            ["poses_bounds.npy", "17 numbers"],
        ),
    ],
    "no rotation": [
        ("blender", frame(TR, matrix(1.5)), [TR, "frame 1 (train/r_1", "not a rotation", "differs", "by 1."]),
        ("LINEMOD", frame(TE, matrix(1.5)), [TE, "frame 1", "not a rotation", "by 1."]),
        ("transforms", frame(ONE, matrix(1.5)), [ONE, "frame 1", "not a rotation", "by 1."]),
        ("llff", row(4, 1, 1.5), ["poses_bounds.npy: view 4", "not a rotation", "by 1."]),
        (
            "deepvoxels",
            first_number("test/pose/000001.txt", "1.5"),
            ["test/pose/000001.txt", "not a rotation", "by 1."],
        ),
        ("colmap", turned(1.9), ["images.txt", "003.png", "rotation", "length 1.9"]),
    ],
    "a pose that is not a number": [
        ("blender", frame(TR, matrix(math.nan)), [TR, "frame 1", "not finite"]),
        ("LINEMOD", frame(TE, matrix(math.inf)), [TE, "frame 1", "not finite"]),
        ("transforms", frame(ONE, matrix(math.nan)), [ONE, "frame 1", "not finite"]),
        ("llff", row(4, 3, math.nan), ["view 4", "not finite"]),
        ("deepvoxels", first_number("train/pose/000002.txt", "nan"), ["train/pose/000002.txt", "not finite"]),
        ("colmap", turned(math.nan), ["images.txt", "003.png", "not finite"]),
    ],
    "bounds that are not numbers": [
        ("blender", edit(TR, lambda t: t.update(near=math.nan)), [TR, "near is nan"]),
        ("LINEMOD", edit(TE, lambda t: t.update(far=math.nan)), [TE, "far is nan"]),
        ("transforms", edit(ONE, lambda t: t.update(near=math.nan, far=2.0)), [ONE, "near is nan"]),
        ("llff", row(3, 15, math.nan), ["view 3", "depth bounds nan, 6"]),
        ("llff", row(3, 16, math.inf), ["view 3", "depth bounds 2, inf"]),
        ("colmap", text(f"{MODEL}/points3D.txt", "0 -1 -1", "0 nan -1"), ["points3D.txt", "point 0", "not finite"]),
        ("deepvoxels", text("train/intrinsics.txt", "9.0", "nan"), ["train/intrinsics.txt", "f nan"]),
    ],
    "no images": [
        ("blender", edit(TR, lambda t: t.update(frames=[])), [TR, "frames is empty"]),
        ("LINEMOD", edit(TE, lambda t: t.update(frames=[])), [TE, "frames is empty"]),
        ("transforms", edit(ONE, lambda t: t.update(train_filenames=[])), [ONE, "no frame is left to train on"]),
        ("llff", lambda root: [p.unlink() for p in (root / "images").iterdir()], ["images", "no images"]),
        ("colmap", lambda root: (root / MODEL / "images.txt").write_text(""), ["images.txt", "no image"]),
        (
            "deepvoxels",
            lambda root: [p.unlink() for kind in ("rgb", "pose") for p in (root / "train" / kind).iterdir()],
            ["train/rgb", "no .png images"],
        ),
    ],
    "a frame twice": [
        ("blender", edit(TR, lambda t: t["frames"].append(t["frames"][2])), [TR, "frame 8", "same image as frame 2"]),
        ("blender", frame(TE, lambda f: f.update(file_path="train/r_3")), [TE, "frame 1", f"{TR}: frame 3"]),
        ("LINEMOD", edit(TE, lambda t: t["frames"].append(t["frames"][1])), [TE, "frame 2", "same image as frame 1"]),
        ("LINEMOD", frame(TE, lambda f: f.update(file_path="train/r_3")), [TE, "frame 1", f"{TR}: frame 3"]),
        ("transforms", frame(ONE, lambda f: f.update(file_path="images/000")), [ONE, "frame 1", "as frame 0"]),
        ("colmap", text(f"{MODEL}/images.txt", "004.png", "003.png"), ["images.txt", "003.png", "twice"]),
    ],
    "paths that are none": [
        *(
            (form, frame(name, partial(dict.update, file_path=path)), [name, "frame 1", f"file_path is '{shown}"])
            for form, name in (("blender", TR), ("LINEMOD", TE), ("transforms", ONE))
            for path, shown in (("x" * 5000, "xxx"), ("/a\0b", "/a"), ("", "'"))
        ),
        ("transforms", frame(ONE, lambda f: f.update(mask_path="a\0b")), [ONE, "frame 1", "mask_path is 'a"]),
        ("transforms", frame(ONE, lambda f: f.update(file_path="images")), [ONE, "frame 1", "no such image"]),
        (
            "blender",
            frame(TR, lambda f: f.update(file_path=["train/r_1"])),
            [TR, "frame 1", "file_path is ['train/r_1']"],
        ),
    ],
}
CASES = [
    pytest.param(form, spoil, words, id=f"{kind}-{form}") for kind in FAULTS for form, spoil, words in FAULTS[kind]
]


def one_line(root, form, capsys, words, *flags):
    """train.py ends with status 2 and one line that has all words; inspect has a problem of the same words."""
    status, said = run(root, form, capsys, *flags)
    assert status == 2
    (line,) = said.splitlines()
    assert line.startswith("train.py: error: ")
    for word in words:
        assert word in line, line
    return line.removeprefix("train.py: error: ")


@pytest.mark.parametrize(("form", "spoil", "words"), CASES)
def test_damage_is_one_line(sound, tmp_path, form, spoil, words, capsys):
    root = shutil.copytree(sound[form], tmp_path / "scene")
    spoil(root)
    line = one_line(root, form, capsys, words)
    problems = inspect_scene(root, form).problems
    assert line in problems
    assert len(set(problems)) == len(problems)
    assert all("\n" not in problem for problem in problems)


@pytest.mark.parametrize("view", [3, 8])  # one to train on and one to test with
@pytest.mark.parametrize("form", FORMATS)
def test_a_damaged_image_is_one_line(sound, tmp_path, form, view, capsys):
    root = shutil.copytree(sound[form], tmp_path / "scene")
    path = root / place(form, view)
    whole = path.read_bytes()
    for part, word in ((0, "not an image"), (len(whole) - 30, "damaged")):
        path.write_bytes(whole[:part])
        line = one_line(root, form, capsys, [f"{path}: ", word])
        problems = inspect_scene(root, form).problems
        assert [p for p in problems if str(path) in p] == [line]
    picture(path, 3, channels=4)
    line = one_line(root, form, capsys, [f"{path} has alpha", "not"])
    assert line in inspect_scene(root, form).problems
    Image.new("I;16", (SIDE, SIDE)).save(path)
    one_line(root, form, capsys, [str(path), "I;16"])


@pytest.mark.parametrize("form", ["llff", "transforms", "colmap"])
def test_a_split_that_leaves_nothing_to_train_on_is_one_line(sound, tmp_path, form, capsys):
    root = shutil.copytree(sound[form], tmp_path / "scene")
    one_line(root, form, capsys, ["llffhold 1", "10"], "--llffhold", "1")


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    ("flags", "words"), [(["--far", "nan"], ["--far nan"]), (["--near", "5", "--far", "5"], ["near", "far"])]
)
def test_flags_that_are_no_bounds_are_one_line(sound, tmp_path, form, flags, words, capsys):
    root = shutil.copytree(sound[form], tmp_path / "scene")
    one_line(root, form, capsys, words, *flags)


def test_images_without_a_pose_are_left_out_with_one_line(sound, tmp_path, capsys):
    root = shutil.copytree(sound["colmap"], tmp_path / "scene")
    for name in ("new.png", "more/new.png"):
        picture(root / "images" / name, 50)
    status, said = run(root, "colmap", capsys)
    assert status == 0
    (line,) = [line for line in said.splitlines() if "pose" in line]
    assert line.startswith(f"train.py: warning: {root / 'images'}: 2 of 12 images have no pose in")
    assert line.endswith("more/new.png, new.png")
    assert sum("without a pose" in problem for problem in inspect_scene(root).problems) == 2
