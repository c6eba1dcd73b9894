"""OpenEXR images, written here byte by byte, against the sRGB curve and straight alpha."""

import json
import struct

import numpy as np
import pytest

from nerf_dfa.errors import UserError
from nerf_dfa.scenes.exr import exr_shape, load_exr
from nerf_dfa.scenes.photographs import load_photographs
from nerf_dfa.scenes.transforms import load_transforms


def attribute(name, kind, value):
    return name.encode() + b"\0" + kind.encode() + b"\0" + struct.pack("<i", len(value)) + value


def write_exr(path, half=False, **channels):
    """An uncompressed image of one part, a scan line a block."""
    names = sorted(channels)
    height, width = channels[names[0]].shape
    kinds = b"".join(name.encode() + b"\0" + struct.pack("<iB3xii", 1 if half else 2, 0, 1, 1) for name in names)
    box = struct.pack("<4i", 0, 0, width - 1, height - 1)
    header = struct.pack("<II", 20000630, 2) + attribute("channels", "chlist", kinds + b"\0")
    header += attribute("compression", "compression", b"\0") + attribute("dataWindow", "box2i", box)
    header += attribute("displayWindow", "box2i", box) + attribute("lineOrder", "lineOrder", b"\0")
    header += attribute("pixelAspectRatio", "float", struct.pack("<f", 1))
    header += attribute("screenWindowCenter", "v2f", struct.pack("<2f", 0, 0))
    header += attribute("screenWindowWidth", "float", struct.pack("<f", 1)) + b"\0"
    kind = "<f2" if half else "<f4"
    lines = [b"".join(channels[name][y].astype(kind).tobytes() for name in names) for y in range(height)]
    offsets, blocks = b"", b""
    for y, line in enumerate(lines):
        offsets += struct.pack("<Q", len(header) + 8 * height + len(blocks))
        blocks += struct.pack("<ii", y, len(line)) + line
    path.write_bytes(header + offsets + blocks)


def srgb(linear):
    linear = np.clip(linear, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("half", [False, True])
def test_colours_are_encoded_in_srgb_and_cut_off(tmp_path, half):
    rng = np.random.default_rng(0)
    linear = rng.uniform(0, 1.5, (7, 11, 3)) ** 3  # many dark ones, and some that are brighter than white
    write_exr(tmp_path / "a.exr", half, **dict(zip("RGB", np.moveaxis(linear, -1, 0), strict=True)))
    assert exr_shape(tmp_path / "a.exr") == (11, 7, 3)
    pixels = load_exr(tmp_path / "a.exr")
    assert pixels.shape == (7, 11, 3)
    assert np.abs(pixels - srgb(linear)).max() < 0.75  # half a step, and the precision of half floats


@pytest.mark.parametrize("half", [False, True])
def test_grey_images_become_rgb(tmp_path, half):
    grey = np.random.default_rng(0).uniform(0, 1, (5, 8))
    write_exr(tmp_path / "a.exr", half, Y=grey)
    assert np.abs(load_exr(tmp_path / "a.exr") - srgb(grey)[..., None]).max() < 0.75


@pytest.mark.parametrize("half", [False, True])
def test_alpha_becomes_straight(tmp_path, half):
    rng = np.random.default_rng(0)
    straight, alpha = rng.uniform(0, 1, (6, 5, 3)), rng.uniform(0.2, 1, (6, 5))
    alpha[0, 0] = 0
    channels = dict(zip("RGB", np.moveaxis(straight * alpha[..., None], -1, 0), strict=True))
    write_exr(tmp_path / "a.exr", half, A=alpha, **channels)
    assert exr_shape(tmp_path / "a.exr") == (5, 6, 4)
    pixels = load_exr(tmp_path / "a.exr")
    assert np.abs(pixels[..., 3] - 255 * alpha).max() < 0.75
    straight[0, 0] = 0
    assert np.abs(pixels[..., :3] - srgb(straight)).max() < 1


def test_exr_images_load_like_others(tmp_path):
    paths = [tmp_path / f"{i}.exr" for i in range(2)]
    for i, path in enumerate(paths):
        write_exr(path, **{name: np.full((4, 6), 0.2 * (i + 1)) for name in "RGB"})
    images = load_photographs(paths, [None, None], (3, 2))
    assert images.shape == (2, 2, 3, 3)
    assert images[:, 0, 0, 0].tolist() == [round(float(srgb(x))) for x in (0.2, 0.4)]
    masked = load_photographs(paths, [None, paths[1]], (3, 2))
    assert masked[:, 0, 0, 3].tolist() == [255, images[1, 0, 0, 0].item()]
    write_exr(paths[1], **{name: np.full((4, 6), 0.2) for name in "RGBA"})
    with pytest.raises(UserError, match="all be RGB or all RGBA"):
        load_photographs(paths, [None, None])


def test_a_capture_of_exr_images_loads(tmp_path):
    frames = []
    for i in range(3):
        write_exr(tmp_path / f"{i}.exr", **{name: np.full((6, 8), float(i)) for name in "RGB"})
        matrix = [[1, 0, 0, i], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
        frames.append({"file_path": f"./{i}", "transform_matrix": matrix})
    (tmp_path / "transforms.json").write_text(json.dumps({"fl_x": 9.0, "frames": frames}))
    scene = load_transforms(tmp_path, image_size=4, keep_world=True, near=1.0, far=5.0)
    assert scene.names == ("0.exr", "1.exr", "2.exr")
    assert scene.images.shape == (3, 3, 4, 3)
    assert scene.images[:, 1, 2, 0].tolist() == [0, 255, 255]


def test_damaged_files_are_named(tmp_path):
    path = tmp_path / "a.exr"
    write_exr(path, **{name: np.random.default_rng(0).random((40, 60)) for name in "RGB"})
    whole = path.read_bytes()
    for content, word in ((whole[:600], "damaged"), (whole[:100], "not an OpenEXR"), (b"PNG", "not an OpenEXR")):
        path.write_bytes(content)
        with pytest.raises(UserError) as error:
            load_exr(path)
        assert str(path) in str(error.value)
        assert word in str(error.value)
        assert "PNG" in str(error.value)
        assert "\n" not in str(error.value)
    path.unlink()
    with pytest.raises(UserError, match="cannot be read"):
        load_exr(path)
