"""LLFF scenes: cameras against a second computation in NumPy, the real fern, and each way a scene can be wrong."""

import numpy as np
import pytest
import torch
from PIL import Image

from nerf_dfa.errors import UserError
from nerf_dfa.scenes.llff import load_llff
from nerf_dfa.scenes.paths import average_pose

HEIGHT, WIDTH, FOCAL = 48, 64, 60.0


def rotation(axis, degrees):
    """Rodrigues' formula."""
    x, y, z = np.asarray(axis) / np.linalg.norm(axis)
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.radians(degrees)
    return np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * k @ k


def to_table(rotations, centres, bounds):
    """Rows of poses_bounds.npy from OpenGL rotations: down = -up, right, backwards."""
    rows = []
    for r, t, b in zip(rotations, centres, bounds, strict=True):
        matrix = np.stack([-r[:, 1], r[:, 0], r[:, 2], t, [HEIGHT, WIDTH, FOCAL]], axis=1)
        rows.append([*matrix.ravel(), *b])
    return np.array(rows)


def forward_table(count=9):
    """Nearly parallel cameras on a wall, itself turned and moved in the world."""
    rng = np.random.default_rng(0)
    world = rotation([1, 2, 3], 70)
    rotations = [world @ rotation(rng.normal(size=3), 8) for _ in range(count)]
    centres = [world @ (rng.normal(size=3) * [1, 1, 0.1]) + [5, -3, 2] for _ in range(count)]
    bounds = np.stack([4 + rng.random(count), 20 + 10 * rng.random(count)], axis=1)
    return to_table(rotations, centres, bounds)


def around_table(count=12, radius=5.0, height=2.0, target=(3.0, 1.0, -2.0)):
    """Cameras on a circle, `height` above the point that they look at."""
    rotations, centres = [], []
    for angle in 2 * np.pi * np.arange(count) / count:
        offset = np.array([radius * np.cos(angle), radius * np.sin(angle), height])
        z = offset / np.linalg.norm(offset)
        x = np.cross([0, 0, 1], z)
        x /= np.linalg.norm(x)
        rotations.append(np.stack([x, np.cross(z, x), z], axis=1))
        centres.append(offset + target)
    return to_table(rotations, centres, [(2.0, 8.0)] * count)


def write(root, table, folders=None, count=None):
    """The folder of a scene; folders: their names and image sizes."""
    root.mkdir(exist_ok=True)
    np.save(root / "poses_bounds.npy", table)
    rng = np.random.default_rng(1)
    for folder, (width, height) in (folders or {"images_8": (8, 6)}).items():
        (root / folder).mkdir()
        for i in range(len(table) if count is None else count):
            pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / folder / f"photo_{i:02}.png")
    return root


def refused(root, *words, **options):
    with pytest.raises(UserError) as error:
        load_llff(root, **options)
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message


def recentred_by_hand(table, bd_factor=0.75):
    """Camera-to-world matrices (n, 4, 4), in homogeneous coordinates and with matrix inverses throughout."""
    scale = 1 / (bd_factor * table[:, 15].min())
    to_opengl = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]])  # right = second column, up = -first, back = third
    matrices = np.tile(np.eye(4), (len(table), 1, 1))
    for matrix, row in zip(matrices, table, strict=True):
        stored = row[:15].reshape(3, 5)
        matrix[:3, :3] = stored[:, :3] @ to_opengl
        matrix[:3, 3] = stored[:, 3] * scale
    z = matrices[:, :3, 2].mean(0)
    z /= np.linalg.norm(z)
    x = np.cross(matrices[:, :3, 1].mean(0), z)
    x /= np.linalg.norm(x)
    average = np.eye(4)
    average[:3] = np.stack([x, np.cross(z, x), z, matrices[:, :3, 3].mean(0)], axis=1)
    return np.linalg.inv(average) @ matrices


def test_scene_as_written(tmp_path):
    table = forward_table()
    scene = load_llff(write(tmp_path / "wall", table))
    assert scene.name == "wall"
    assert scene.images.shape == (9, 6, 8, 3)
    assert scene.names[3] == "images_8/photo_03.png"
    with Image.open(tmp_path / "wall" / scene.names[3]) as image:
        assert np.array_equal(scene.images[3].numpy(), np.asarray(image))
    assert (scene.near, scene.far, scene.ndc, scene.up) == (0.0, 1.0, True, (0.0, 1.0, 0.0))
    assert scene.cameras.intrinsics[0].tolist() == pytest.approx([FOCAL / 8, FOCAL / 8, 4, 3])
    expected = recentred_by_hand(table)[:, :3]
    assert np.abs(scene.cameras.poses.numpy() - expected).max() < 1e-5


def test_average_camera_becomes_the_identity(tmp_path):
    scene = load_llff(write(tmp_path, forward_table()))
    average = average_pose(scene.cameras.poses.double())
    assert torch.allclose(average, torch.eye(3, 4, dtype=torch.float64), atol=1e-6)


def test_file_axes_are_down_right_backwards(tmp_path):
    """An unturned camera whose file says down = -y, right = x, backwards = z is the OpenGL identity."""
    row = np.array([[0, 1, 0, 0, HEIGHT], [-1, 0, 0, 0, WIDTH], [0, 0, 1, 0, FOCAL]]).ravel()
    table = np.stack([[*row, 1, 2]] * 2)
    scene = load_llff(write(tmp_path, table))
    assert torch.allclose(scene.cameras.poses, torch.eye(3, 4).expand(2, 3, 4), atol=1e-7)


def test_nearest_depth_is_scaled_to_one_over_bd_factor(tmp_path):
    table = forward_table()
    root = write(tmp_path, table)
    ratio = table[:, 16].max() / table[:, 15].min()
    assert load_llff(root).depth_range == pytest.approx((4 / 3, 4 / 3 * ratio))
    assert load_llff(root, bd_factor=0.5).depth_range == pytest.approx((2, 2 * ratio))
    unscaled = load_llff(root, bd_factor=None)
    assert unscaled.depth_range == pytest.approx((table[:, 15].min(), table[:, 16].max()))
    distances = np.linalg.norm(table[:, 3:15:5] - table[:, 3:15:5].mean(0), axis=1)
    assert np.abs(unscaled.cameras.poses[:, :, 3].norm(dim=1).numpy() - distances).max() < 1e-5
    refused(root, "bd_factor -1", bd_factor=-1.0)


def test_ndc_is_that_of_the_widest_lens(tmp_path):
    table = forward_table()
    table[3, 14], table[5, 14] = 48.0, 75.0
    scene = load_llff(write(tmp_path, table))
    assert scene.cameras.intrinsics[[2, 3, 5], 0].tolist() == [7.5, 6.0, 9.375]
    expected = (2 * 48 / WIDTH, 2 * 48 / HEIGHT)
    assert scene.cameras.ndc_scale == scene.cameras[5].ndc_scale == pytest.approx(expected)


def test_cameras_that_look_back_do_not_fit_ndc(tmp_path):
    table = forward_table()
    table[3, :15] = table[3, :15].reshape(3, 5).dot(np.diag([1, -1, -1, 1, 1])).ravel()
    write(tmp_path, table)
    refused(tmp_path, "1 of 9 cameras", "no_ndc")
    assert not load_llff(tmp_path, ndc=False).ndc


def test_bounds_without_ndc(tmp_path):
    root = write(tmp_path, forward_table())
    scene = load_llff(root, ndc=False)
    nearest, furthest = scene.depth_range
    assert (scene.near, scene.far) == pytest.approx((0.9 * nearest, furthest))
    assert not scene.ndc
    chosen = load_llff(root, ndc=False, near=0.5, far=50.0)
    assert (chosen.near, chosen.far) == (0.5, 50.0)
    refused(root, root, "near 60", ndc=False, near=60.0, far=50.0)
    refused(root, root, "far 6", "NDC", far=6.0)


def test_views_held_out(tmp_path):
    table = forward_table(9)
    root = write(tmp_path, table)
    assert load_llff(root).split == {"train": (1, 2, 3, 4, 5, 6, 7), "val": (0, 8), "test": (0, 8)}
    assert load_llff(root, llffhold=4).split["test"] == (0, 4, 8)
    centres = table[:, 3:15:5]
    nearest = int(np.linalg.norm(centres - centres.mean(0), axis=1).argmin())
    single = load_llff(root, llffhold=0).split
    assert single["test"] == single["val"] == (nearest,)
    assert single["train"] == tuple(i for i in range(9) if i != nearest)
    refused(root, root, "llffhold 1", "9 views", llffhold=1)


def test_originals_are_averaged_down_in_memory(tmp_path):
    root = write(tmp_path, forward_table(3), {"images": (WIDTH, HEIGHT)})
    before = {path.name: path.read_bytes() for path in (root / "images").iterdir()}
    scene = load_llff(root, factor=4)
    with Image.open(root / "images" / "photo_02.png") as image:
        blocks = np.asarray(image, dtype=np.float64).reshape(12, 4, 16, 4, 3).mean((1, 3))
    assert np.abs(scene.images[2].numpy() - blocks).max() <= 0.5
    assert scene.cameras.intrinsics[0].tolist() == pytest.approx([FOCAL / 4, FOCAL / 4, 8, 6])
    assert {path.name for path in root.iterdir()} == {"images", "poses_bounds.npy"}
    assert {path.name: path.read_bytes() for path in (root / "images").iterdir()} == before


def test_a_folder_of_the_factor_is_used_as_it_is(tmp_path):
    root = write(tmp_path, forward_table(3), {"images": (WIDTH, HEIGHT), "images_4": (16, 12)})
    scene = load_llff(root, factor=4)
    assert scene.names[0] == "images_4/photo_00.png"
    with Image.open(root / scene.names[0]) as image:
        assert np.array_equal(scene.images[0].numpy(), np.asarray(image))


@pytest.mark.parametrize("factor", [None, 0, 1])
def test_no_factor_means_the_originals(tmp_path, factor):
    root = write(tmp_path, forward_table(3), {"images": (WIDTH, HEIGHT), "images_8": (8, 6)})
    scene = load_llff(root, factor=factor)
    assert scene.images.shape == (3, HEIGHT, WIDTH, 3)
    assert scene.cameras.intrinsics[0].tolist() == pytest.approx([FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2])


def test_focal_length_follows_the_actual_size(tmp_path):
    """A folder that says 7 but holds images a factor of 64 / 9 narrower and 48 / 7 lower."""
    root = write(tmp_path, forward_table(3), {"images_7": (9, 7)})
    scene = load_llff(root, factor=7)
    assert scene.cameras.intrinsics[0].tolist() == pytest.approx([FOCAL * 9 / 64, FOCAL * 7 / 48, 4.5, 3.5])
    assert load_llff(root, factor=7, image_size=3).cameras.intrinsics[0, 0].item() == pytest.approx(FOCAL * 3 / 64)
    assert load_llff(root, factor=7, image_size=3).images.shape == (3, 2, 3, 3)
    refused(root, "image_size 10", factor=7, image_size=10)


def test_spherify(tmp_path):
    """Cameras on a circle of radius 5, 2 above their target: in the new world at distance 1, elevation atan(2/5)."""
    scene = load_llff(write(tmp_path, around_table()), spherify=True, ndc=False)
    poses = scene.cameras.poses.double()
    centres, backward = poses[:, :, 3], poses[:, :, 2]
    assert torch.allclose(centres.norm(dim=1), torch.ones(12, dtype=torch.float64), atol=1e-5)
    assert torch.allclose(centres, backward, atol=1e-5)  # each looks at the origin
    assert centres[:, 2].tolist() == pytest.approx([2 / 29**0.5] * 12, abs=1e-5)
    assert (poses[:, 2, 1] > 0.9).all()  # the images' up is the world's
    assert torch.allclose(torch.linalg.det(poses[:, :, :3]), torch.ones(12, dtype=torch.float64), atol=1e-5)
    turns = torch.linalg.cross(centres, centres.roll(-1, 0))[:, 2]
    assert (turns > 0).all()  # counter-clockwise as written: nothing is mirrored
    assert scene.depth_range == pytest.approx((2 / 29**0.5, 8 / 29**0.5))
    assert (scene.near, scene.far) == pytest.approx((1.8 / 29**0.5, 8 / 29**0.5))
    assert scene.up == (0.0, 0.0, 1.0)
    refused(tmp_path, "spherify", "no_ndc", spherify=True)


def test_cameras_without_an_average_or_an_upward_direction(tmp_path):
    refused(write(tmp_path / "ring", around_table()), tmp_path / "ring", "no average", "spherify")
    level = write(tmp_path / "level", around_table(height=0.0))
    refused(level, level, "no upward direction", spherify=True, ndc=False)


def test_spherify_follows_recentring(tmp_path):
    """Where an average camera exists, x is normal to (0.1, 0.2, 0.3) of the recentred world, as NeRF has it."""
    table = around_table()[:7]  # little more than half the circle
    poses = recentred_by_hand(table)
    projections = np.eye(3) - poses[:, :3, 2, None] * poses[:, None, :3, 2]
    origin = np.linalg.solve(projections.sum(0), (projections @ poses[:, :3, 3:]).sum(0))[:, 0]
    z = (poses[:, :3, 3] - origin).mean(0)
    x = np.cross([0.1, 0.2, 0.3], z)
    frame = np.stack([x / np.linalg.norm(x), np.cross(z, x) / np.linalg.norm(np.cross(z, x)), z / np.linalg.norm(z)])
    centres = (poses[:, :3, 3] - origin) @ frame.T
    centres /= np.sqrt((centres**2).sum(1).mean())
    scene = load_llff(write(tmp_path, table), spherify=True, ndc=False)
    assert np.abs(scene.cameras.poses[:, :, 3].numpy() - centres).max() < 1e-5
    assert np.abs(scene.cameras.poses[:, :, :3].numpy() - frame @ poses[:, :3, :3]).max() < 1e-5


def test_missing_folders_are_named(tmp_path):
    refused(tmp_path / "nowhere", tmp_path / "nowhere", "no such folder")
    refused(tmp_path, tmp_path / "poses_bounds.npy", "no such file")
    root = write(tmp_path / "wall", forward_table(3), {"images_4": (16, 12), "images_8": (8, 6)})
    refused(root, root, "images_2", "images_4, images_8", factor=2)
    refused(root, root, "factor 1", "images_4, images_8", factor=0)
    refused(root, "factor -2", factor=-2)
    (root / "images_2").mkdir()
    (root / "images_2" / "notes.txt").write_text("no photograph")
    refused(root, root / "images_2", "no images", factor=2)


def test_counts_must_agree(tmp_path):
    root = write(tmp_path, forward_table(4), count=3)
    refused(root, root / "poses_bounds.npy", "4 poses", root / "images_8", "3 images")
    (root / "images_8" / "._photo_00.png").write_bytes(b"what macOS leaves behind")
    refused(root, "3 images")


def test_turned_images_are_refused(tmp_path):
    root = write(tmp_path, forward_table(3), {"images_8": (6, 8)})
    refused(root, "photo_00.png", "6x8", "64x48")


def test_broken_tables_are_named(tmp_path):
    root = write(tmp_path, forward_table(3))
    file = root / "poses_bounds.npy"
    good = forward_table(3)
    for bad in (good[:, :15], good[0], good[:0], good.astype(str)):
        np.save(file, bad)
        refused(root, file, "17 numbers")
    for content in (b"", b"not numpy", b"\x93NUMPY\x01\x00"):
        file.write_bytes(content)
        refused(root, file, "not a NumPy array")
    np.save(file, np.array([{"pickled": 1}]), allow_pickle=True)
    refused(root, file, "not a NumPy array")


@pytest.mark.parametrize(
    ("column", "value", "word"),
    [
        (0, np.nan, "not finite"),
        (3, np.inf, "not finite"),
        (0, 3.0, "not a rotation"),
        (4, 0.0, "height, width, focal"),
        (14, np.nan, "height, width, focal"),
        (15, np.nan, "depth bounds nan"),
        (15, -1.0, "depth bounds -1"),
        (16, 0.5, "0.5; expected 0 < near < far"),
        (16, np.inf, "depth bounds"),
    ],
)
def test_wrong_values_are_named(tmp_path, column, value, word):
    table = forward_table(3)
    table[1, column] = value
    root = write(tmp_path, table)
    refused(root, root / "poses_bounds.npy", "view 1", word)


def test_fern(data):
    root = data / "nerf_llff_data" / "fern"
    if not root.is_dir():
        pytest.skip(f"no fern scene at {root}")
    scene = load_llff(root)
    assert scene.images.shape == (20, 378, 504, 3)
    assert {name: len(views) for name, views in scene.split.items()} == {"train": 17, "val": 3, "test": 3}
    assert scene.split["test"] == (0, 8, 16)
    # 3260.526 pixels at 4032 x 3024
    assert scene.cameras.intrinsics[0].tolist() == pytest.approx([407.56579, 407.56579, 252, 189], abs=1e-4)
    table = np.load(root / "poses_bounds.npy")
    expected = recentred_by_hand(table)[:, :3]
    assert np.abs(scene.cameras.poses[11].numpy() - expected[11]).max() < 1e-6
    assert np.abs(scene.cameras.poses.numpy() - expected).max() < 1e-6
    assert scene.depth_range == pytest.approx((4 / 3, 80.00209740336334 / 16.985296178676084 * 4 / 3))
    with Image.open(root / "images_8" / "image011.png") as image:
        assert scene.images[11, 200, 300].tolist() == list(image.getpixel((300, 200)))
