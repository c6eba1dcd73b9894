"""instant-ngp's and nerfstudio's transforms.json: cameras and pixels of scenes written here, and errors."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from nerf_dfa.errors import UserCaution, UserError
from nerf_dfa.nerf.checks import scene_flags
from nerf_dfa.rendering.distortion import project
from nerf_dfa.rendering.rays import camera_rays, image_rays
from nerf_dfa.scenes.blender import load_blender
from nerf_dfa.scenes.load import load_scene
from nerf_dfa.scenes.paths import look_at
from nerf_dfa.scenes.placement import centred
from nerf_dfa.scenes.transforms import load_transforms

WIDTH, HEIGHT = 40, 30
LENS = {"fl_x": 36.0, "fl_y": 35.0, "cx": 19.0, "cy": 15.5, "w": WIDTH, "h": HEIGHT}


def matrices(count, radius=4.0, centre=(0.0, 0.0, 0.0)):
    """Cameras on a ring of 30 degrees' elevation about a point."""
    poses = []
    target = torch.tensor(centre, dtype=torch.float64)
    for i in range(count):
        azimuth = 2 * math.pi * i / count
        direction = [0.75**0.5 * math.cos(azimuth), 0.75**0.5 * math.sin(azimuth), 0.5]
        pose = look_at(target + radius * target.new_tensor(direction), target, target.new_tensor([0, 0, 1]))
        poses.append([*pose.tolist(), [0.0, 0.0, 0.0, 1.0]])
    return poses


def capture(count=10, poses=None, **keys):
    poses = poses or matrices(count)
    frames = [{"file_path": f"images/{i:03}.png", "transform_matrix": pose} for i, pose in enumerate(poses)]
    return {**LENS, "frames": frames, **keys}


def photograph(path, seed, size=(WIDTH, HEIGHT), channels=3):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0], channels) if channels > 1 else (size[1], size[0])
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)).save(path)


def write(root, table, size=(WIDTH, HEIGHT), channels=3):
    root.mkdir(exist_ok=True)
    (root / "transforms.json").write_text(json.dumps(table))
    for i, frame in enumerate(table["frames"]):
        name = frame.get("file_path")
        if isinstance(name, str) and name:
            photograph(root / (name if "." in name[1:] else f"{name}.png"), i, size, channels)
    return root


def refused(root, *words, **options):
    with pytest.raises(UserError) as error:
        load_transforms(root, **options)
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message, message


def test_scene_as_written(tmp_path):
    table = capture()
    scene = load_transforms(write(tmp_path / "yard", table), keep_world=True)
    assert scene.name == "yard"
    assert scene.names == tuple(f"images/{i:03}.png" for i in range(10))
    assert scene.split == {"train": (1, 2, 3, 4, 5, 6, 7, 9), "val": (0, 8), "test": (0, 8)}
    assert (scene.ndc, scene.up) == (False, (0.0, 0.0, 1.0))
    assert (scene.near, scene.far) == pytest.approx((2, 6))
    with Image.open(tmp_path / "yard" / "images" / "003.png") as image:
        assert np.array_equal(scene.images[3], image)
    assert torch.equal(scene.cameras.poses[3], torch.tensor(table["frames"][3]["transform_matrix"])[:3])
    assert scene.cameras.intrinsics[3].tolist() == [36.0, 35.0, 19.0, 15.5]
    assert (scene.cameras.lens, scene.cameras.distortion) == ("perspective", None)


def test_a_capture_from_around_is_placed_about_the_origin(tmp_path):
    table = capture(poses=matrices(10, radius=90.0, centre=(50.0, -20.0, 7.0)), near=30.0, far=180.0)
    scene = load_transforms(write(tmp_path, table))
    poses = torch.tensor([frame["transform_matrix"][:3] for frame in table["frames"]], dtype=torch.float64)
    torch.testing.assert_close(scene.cameras.poses, centred(poses).poses(poses).float())
    # A ring is placed as it is: at a distance of 4, and the bounds of the file with it.
    np.testing.assert_allclose(scene.cameras.poses[:, :, 3].norm(dim=1), 4, atol=1e-5)
    assert (scene.near, scene.far) == pytest.approx((4 * 30 / 90, 8.0))
    assert (scene.ndc, scene.up) == (False, (0.0, 0.0, 1.0))


def test_forward_facing_captures_are_seen_from_their_average(tmp_path):
    poses = []
    for x in np.linspace(-1, 1, 9):
        centre = torch.tensor([100 + x, 5.0, 3.0], dtype=torch.float64)
        target, up = torch.tensor([100.0, 15, 3]).double(), torch.tensor([0.0, 0, 1]).double()
        poses.append([*look_at(centre, target, up).tolist(), [0.0, 0.0, 0.0, 1.0]])
    scene = load_transforms(write(tmp_path, capture(poses=poses)))
    np.testing.assert_allclose(scene.cameras.poses[4], torch.eye(3, 4), atol=1e-5)
    np.testing.assert_allclose(scene.cameras.poses[8, :, 3], [0.1, 0, 0], atol=1e-3)
    assert (scene.near, scene.far) == pytest.approx((0.4, 4.0), rel=1e-2)
    assert (scene.ndc, scene.up) == (False, (0.0, 1.0, 0.0))


def test_the_same_scene_in_blenders_form_has_the_same_rays(tmp_path):
    angle = 0.7
    frames = [{"file_path": f"./train/r_{i}", "transform_matrix": pose} for i, pose in enumerate(matrices(4))]
    table = {"camera_angle_x": angle, "frames": frames}
    for name in ("transforms_train.json", "transforms.json"):
        (tmp_path / name).write_text(json.dumps(table))
    for i in range(4):
        photograph(tmp_path / "train" / f"r_{i}.png", i, channels=4)
    one, other = load_blender(tmp_path, image_size=20), load_transforms(tmp_path, image_size=20, keep_world=True)
    assert torch.equal(one.images, other.images)
    assert one.names == other.names
    assert (other.near, other.far) == pytest.approx((one.near, one.far))
    view, row, column = torch.randint(0, 4, (500,)), torch.randint(0, 15, (500,)), torch.randint(0, 20, (500,))
    for a, b in zip(*(camera_rays(s.cameras, view, row, column, 2.0, 6.0) for s in (one, other)), strict=True):
        assert (a - b).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"fl_x": 50.0}, [50, 50, 20, 15]),
        ({"fl_y": 50.0}, [50, 50, 20, 15]),
        ({"camera_angle_x": 2 * math.atan(0.5)}, [40, 40, 20, 15]),
        ({"camera_angle_y": 2 * math.atan(0.5)}, [30, 30, 20, 15]),
        ({"camera_angle_x": 2 * math.atan(0.5), "camera_angle_y": 2 * math.atan(0.25)}, [40, 60, 20, 15]),
        ({"camera_angle_x": 1.0, "fl_x": 50.0, "fl_y": 49.0}, [50, 49, 20, 15]),
        ({"fl_x": 500.0, "cx": 210.0, "cy": 140.0, "w": 400, "h": 300.0}, [50, 50, 21, 14]),  # images reduced tenfold
        ({"fl_x": 50.0, "w": 41, "h": 30}, [50 * 40 / 41, 50, 20, 15]),  # ... with rounding
    ],
)
def test_focal_lengths_and_centres(tmp_path, keys, expected):
    table = {"frames": capture()["frames"], **keys}
    scene = load_transforms(write(tmp_path, table))
    assert scene.cameras.intrinsics[0].tolist() == pytest.approx(expected, rel=1e-6)


def test_a_frames_own_entries_win(tmp_path):
    table = capture(k1=0.1)
    table["frames"][2] |= {"camera_angle_x": 2 * math.atan(0.5), "cx": 22.0, "k1": -0.05, "p2": 0.001}
    cameras = load_transforms(write(tmp_path, table)).cameras
    assert cameras.intrinsics[2].tolist() == pytest.approx([40, 35, 22, 15.5])
    assert cameras.intrinsics[1].tolist() == pytest.approx([36, 35, 19, 15.5])
    assert cameras.distortion[2].tolist() == pytest.approx([-0.05, 0, 0, 0, 0, 0.001])
    assert cameras.distortion[1].tolist() == pytest.approx([0.1, 0, 0, 0, 0, 0])


@pytest.mark.parametrize(
    ("keys", "lens"),
    [
        ({"camera_model": "OPENCV", "k1": -0.1, "k2": 0.02, "p1": 0.001, "p2": -0.002}, "perspective"),
        ({"camera_model": "OPENCV_FISHEYE", "k1": 0.03, "k2": -0.01, "k3": 0.002, "k4": 1e-4}, "fisheye"),
        ({"is_fisheye": True, "k1": 0.03}, "fisheye"),
        ({"is_fisheye": True}, "fisheye"),
        ({"camera_model": "SIMPLE_RADIAL", "k1": -0.1}, "perspective"),
        ({"camera_model": "PINHOLE", "k1": 0.0}, "perspective"),
        ({"camera_model": "SIMPLE_PINHOLE"}, "perspective"),
    ],
)
def test_lenses(tmp_path, keys, lens):
    scene = load_transforms(write(tmp_path, capture(**keys)), image_size=20)
    assert scene.cameras.lens == lens
    rays = image_rays(scene.cameras, 4, 0.0, 1.0)
    view = torch.full(rays.near.shape, 4)
    pixels, _ = project(scene.cameras, view, rays.origins + 2 * rays.directions)
    assert (pixels[3, 7] - torch.tensor([7.5, 3.5])).abs().max() < 1e-4
    assert (pixels[-1, -1] - torch.tensor([19.5, 14.5])).abs().max() < 1e-4


def test_names_in_any_spelling(tmp_path):
    table = capture(7)
    names = ["./images/6", "images\\5.JPG", "images/4.jpeg", "3", "../shot/2.png", "images/v1.1", "0.png"]
    files = ["images/6.png", "images/5.JPG", "images/4.jpeg", "3.jpg", "../shot/2.png", "images/v1.1.jpg", "0.png"]
    for frame, name in zip(table["frames"], names, strict=True):
        frame["file_path"] = name
    root = tmp_path / "scene"
    for i, name in enumerate(files):
        photograph(root / name, i)
    (root / "transforms.json").write_text(json.dumps(table))
    scene = load_transforms(root, keep_world=True)
    assert scene.names == tuple(sorted(files))
    for name, image, pose in zip(scene.names, scene.images, scene.cameras.poses, strict=True):
        assert torch.equal(pose, torch.tensor(matrices(7)[files.index(name)])[:3])
        with Image.open(root / name) as expected:
            assert np.array_equal(image, expected)


def test_the_split_of_the_file(tmp_path):
    table = capture(6)
    names = [frame["file_path"] for frame in table["frames"]]
    root = write(tmp_path, table)

    def split(**lists):
        (root / "transforms.json").write_text(json.dumps(table | lists))
        scene = load_transforms(root)
        return {name: [int(scene.names[i][7:10]) for i in views] for name, views in scene.split.items()}

    lists = {"train_filenames": [f"./{names[4]}", names[0]], "val_filenames": names[1:2], "test_filenames": names[5:]}
    assert split(**lists) == {"train": [0, 4], "val": [1], "test": [5]}
    lists.pop("train_filenames")
    assert split(**lists) == {"train": [0, 2, 3, 4], "val": [1], "test": [5]}
    lists.pop("test_filenames")
    assert split(**lists) == {"train": [0, 2, 3, 4, 5], "val": [1], "test": [1]}
    assert split(train_filenames=names[:3]) == {"train": [0, 1, 2], "val": [], "test": []}
    with pytest.warns(UserCaution, match=r"1 images are both for training and for testing, images/001.png the first"):
        both = split(train_filenames=names[:2], test_filenames=names[1:3])
    assert both == {"train": [0, 1], "val": [1, 2], "test": [1, 2]}


def test_every_nth_frame_is_held_out(tmp_path):
    table = capture(5)
    table["frames"].reverse()
    root = write(tmp_path, table)
    assert load_transforms(root, llffhold=2).split == {"train": (1, 3), "val": (0, 2, 4), "test": (0, 2, 4)}
    assert load_transforms(root, llffhold=2).names[0] == "images/000.png"
    assert load_transforms(root, llffhold=0).split == {"train": (0, 1, 2, 3, 4), "val": (), "test": ()}
    refused(root, "no frame is left to train on", "llffhold 1", llffhold=1)
    refused(root, "llffhold -1", llffhold=-1)
    (root / "transforms.json").write_text(json.dumps(table | {"train_filenames": []}))
    refused(root, root / "transforms.json", "no frame is left to train on", "train_filenames")


def test_alpha_is_kept(tmp_path):
    scene = load_transforms(write(tmp_path, capture(3), channels=4))
    with Image.open(tmp_path / "images" / "001.png") as image:
        assert np.array_equal(scene.images[1], image)


@pytest.mark.parametrize("channels", [3, 4])
def test_masks_become_alpha(tmp_path, channels):
    table = capture(3)
    table["frames"][1]["mask_path"] = "masks/1.png"
    root = write(tmp_path, table, channels=channels)
    photograph(root / "masks" / "1.png", 77, channels=1)
    scene = load_transforms(root)
    assert scene.images.shape == (3, HEIGHT, WIDTH, 4)
    pixels = [np.asarray(Image.open(root / "images" / f"{i:03}.png")).astype(float) for i in range(2)]
    mask = np.asarray(Image.open(root / "masks" / "1.png")) / 255
    alphas = [image[..., 3] if channels == 4 else np.full(image.shape[:2], 255.0) for image in pixels]
    for i, alpha in enumerate((alphas[0], alphas[1] * mask)):
        assert np.array_equal(scene.images[i, ..., :3], pixels[i][..., :3])
        assert np.abs(scene.images[i, ..., 3].numpy() - alpha).max() <= 0.5
    # Averaged down, colours count with the alpha of the mask.
    small = load_transforms(root, image_size=WIDTH // 2).images[1].numpy()
    alpha = scene.images[1, ..., 3].numpy().astype(float)
    weights = alpha[:2, :2].ravel()
    colour = weights @ pixels[1][:2, :2, :3].reshape(4, 3) / weights.sum()
    assert np.abs(small[0, 0] - [*colour, weights.mean()]).max() <= 0.51


def test_wrong_masks_are_named(tmp_path):
    table = capture(3)
    table["frames"][1]["mask_path"] = "masks/1.png"
    root = write(tmp_path, table)
    refused(root, "frame 1 (images/001.png)", "no such mask", root / "masks" / "1.png")
    photograph(root / "masks" / "1.png", 0, size=(20, 30), channels=1)
    refused(root, root / "masks" / "1.png", "one size", "40x30", "20x30")
    table["frames"][1]["mask_path"] = 7
    (root / "transforms.json").write_text(json.dumps(table))
    refused(root, "frame 1", "mask_path is 7")


def test_bounds(tmp_path):
    table = capture(poses=matrices(10, radius=8.0), near=1.0)
    root = write(tmp_path, table)
    scene = load_transforms(root, keep_world=True)
    assert (scene.near, scene.far) == pytest.approx((1, 12))
    scene = load_transforms(root, far=9.0)
    assert (scene.near, scene.far) == pytest.approx((0.5, 9))
    refused(root, "near 3", "far 2", near=3.0, far=2.0)
    (root / "transforms.json").write_text(json.dumps(table | {"far": "sky"}))
    refused(root, "far is 'sky'")


def test_aabb_scale_moves_far_to_the_sides_of_its_box(tmp_path):
    root = write(tmp_path, capture())

    def far(**keys):
        (root / "transforms.json").write_text(json.dumps(capture(**keys)))
        return load_transforms(root, keep_world=True).far

    def furthest(half, middle=(0.0, 0.0, 0.0)):
        signs = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, 8).T
        poses = np.array(matrices(10))[:, :3]
        return max(
            -z @ (c - p) for c in half * signs + middle for p, z in zip(poses[..., 3], poses[..., 2], strict=True)
        )

    assert far(aabb_scale=1) == pytest.approx(6)
    assert far(aabb_scale=2) == pytest.approx(furthest(1 / 0.33))
    assert far(aabb_scale=4) == pytest.approx(furthest(2 / 0.33))
    assert far(aabb_scale=32) == pytest.approx(4 * 6)
    assert far(aabb_scale=4, scale=0.5, offset=[0.5, 0.4, 0.7]) == pytest.approx(furthest(4, (0, 0.2, -0.4)))
    assert far(aabb_scale=4, applied_scale=3.0, applied_transform=np.eye(3, 4).tolist()) == far(aabb_scale=4)
    for keys, word in (({"offset": "left"}, "offset"), ({"scale": 0}, "scale"), ({"scale": None}, "scale")):
        (root / "transforms.json").write_text(json.dumps(capture(aabb_scale=4, **keys)))
        refused(root, root / "transforms.json", word)


def test_captures_that_cannot_be_placed(tmp_path):
    at_one_point = [[*np.c_[np.array(m)[:3, :3], [1, 2, 3]].tolist(), [0, 0, 0, 1]] for m in matrices(6)]
    root = write(tmp_path, capture(poses=at_one_point))
    refused(root, root / "transforms.json", "centred", "one point", "keep_world")
    refused(root, root / "transforms.json", "give near and far", keep_world=True)
    assert load_transforms(root, keep_world=True, near=0.1, far=2.0).cameras.poses[2, :, 3].tolist() == [1, 2, 3]


def change(key, value):
    return lambda t: t["frames"][1].update({key: value})


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda t: t.pop("frames"), ["frames", "missing"]),
        (lambda t: t.update(frames=[]), ["frames", "empty"]),
        (lambda t: t["frames"].__setitem__(1, "photo"), ["frame 1", "file_path", "missing"]),
        (lambda t: t["frames"][1].pop("file_path"), ["frame 1", "file_path", "missing"]),
        (change("file_path", ""), ["frame 1", "file_path"]),
        (change("file_path", "images/9"), ["frame 1 (images/9)", "no such image", ".png, .jpg"]),
        (change("file_path", "images/9.png"), ["frame 1 (images/9.png)", "no such image"]),
        (change("file_path", "./images/000"), ["frame 1 (./images/000)", "same image as frame 0"]),
        (lambda t: t["frames"][1].pop("transform_matrix"), ["frame 1 (images/001.png)", "transform_matrix", "missing"]),
        (lambda t: t["frames"][1]["transform_matrix"].pop(), ["frame 1", "4 rows of 4"]),
        (lambda t: t["frames"][1]["transform_matrix"][0].__setitem__(3, math.nan), ["frame 1", "not finite"]),
        (lambda t: (t.pop("fl_x"), t.pop("fl_y")), ["frame 0 (images/000.png)", "fl_x", "camera_angle_x", "missing"]),
        (lambda t: t.update(fl_x=math.nan), ["frame 0", "fl_x is nan"]),
        (lambda t: t.update(fl_x=-3.0), ["frame 0", "fl_x is -3"]),
        (change("cx", math.nan), ["frame 1", "cx is nan"]),
        (change("k1", math.inf), ["frame 1", "k1 is inf"]),
        (change("k1", "none"), ["frame 1", "k1 is 'none'"]),
        (change("camera_angle_x", 40.0), ["frame 1", "camera_angle_x", "radians"]),
        (change("w", 0), ["frame 1", "w 0"]),
        (change("w", 30), ["frame 1", "40x30", "30x30", "cropped"]),
        (change("camera_model", "EQUIRECTANGULAR"), ["frame 1", "EQUIRECTANGULAR", "OPENCV_FISHEYE"]),
        (change("camera_model", 5), ["frame 1", "camera_model is 5"]),
        (change("camera_model", "OPENCV_FISHEYE"), ["frame 1", "fisheye", "frame 0", "perspective"]),
        (lambda t: t.update(camera_model="PINHOLE", k1=0.1), ["frame 0", "k1 is 0.1", "PINHOLE"]),
        (lambda t: t.update(camera_model="OPENCV", is_fisheye=True), ["is_fisheye", "OPENCV"]),
        (lambda t: t.update(k1=-3.0), ["view 0", "folds"]),
        (lambda t: t.update(is_fisheye=True, fl_x=14.0, fl_y=14.0), ["view 0", "degrees", "89"]),
        (lambda t: t.update(from_na=True), ["from_na", "axes"]),
        (lambda t: t.update(test_filenames=["images/77.png"]), ["test_filenames", "images/77.png"]),
        (lambda t: t.update(test_filenames="all"), ["test_filenames", "list"]),
    ],
)
def test_wrong_entries_are_named(tmp_path, edit, words):
    table = capture(4)
    root = write(tmp_path, table)
    edit(table)
    (root / "transforms.json").write_text(json.dumps(table))
    refused(root, root / "transforms.json", *words)


def test_matrix_that_is_no_rotation_says_by_how_much(tmp_path):
    table = capture(4)
    rows = table["frames"][2]["transform_matrix"]
    for row in rows[:3]:
        row[0] *= 1.1  # the first column's square is 1.21
    root = write(tmp_path, table)
    column = np.array(rows)[:3, 0] / 1.1
    refused(root, "frame 2 (images/002.png)", "not a rotation", f"{0.21 * np.abs(np.outer(column, column)).max():.2g}")


def test_images_of_two_sizes_are_named(tmp_path):
    root = write(tmp_path, capture(4))
    photograph(root / "images" / "002.png", 0, size=(20, 15))
    refused(root, root / "images" / "000.png", "40x30", root / "images" / "002.png", "20x15")


def test_wrong_files_are_named(tmp_path):
    refused(tmp_path / "nowhere", tmp_path / "nowhere", "no such folder")
    refused(tmp_path, tmp_path / "transforms.json", "no such file")
    root = write(tmp_path, capture(4))
    (root / "images" / "001.png").write_bytes((root / "images" / "001.png").read_bytes()[:200])
    refused(root, root / "images" / "001.png", "damaged")
    (root / "transforms.json").write_text("{")
    refused(root, root / "transforms.json", "not valid JSON")


def test_the_format_is_recognised_and_says_its_flags(tmp_path):
    root = write(tmp_path, capture(4))
    assert len(load_scene(root, keep_world=True, llffhold=2).split["test"]) == 2
    assert scene_flags("transforms") == {"image_size", "llffhold", "keep_world", "near", "far"}
