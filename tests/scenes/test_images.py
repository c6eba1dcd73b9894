"""Reading photographs: colours as stored, area averages against a brute-force sum, and errors that name the file."""

import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from nerf_dfa.errors import UserError
from nerf_dfa.scenes.images import box_average, fit_width, image_shape, load_images, loaded_size


def save(path, pixels, mode=None):
    image = Image.fromarray(np.asarray(pixels, dtype=np.uint8))
    (image.convert(mode) if mode else image).save(path)
    return path


def exact_average(pixels, width, height):
    """Each output pixel as a float64 sum over all input pixels, weighted by the area that they share."""

    def shares(outputs, inputs):
        ratio = inputs / outputs
        return np.array(
            [
                [max(0.0, min((i + 1) * ratio, k + 1) - max(i * ratio, k)) / ratio for k in range(inputs)]
                for i in range(outputs)
            ]
        )

    rows, columns = shares(height, pixels.shape[0]), shares(width, pixels.shape[1])
    values = pixels.astype(np.float64)
    if pixels.shape[2] == 3:
        return np.einsum("ih,hwc,jw->ijc", rows, values, columns)
    alpha = np.einsum("ih,hw,jw->ij", rows, values[..., 3], columns)[..., None]
    colours = np.einsum("ih,hwc,jw->ijc", rows, values[..., :3] * values[..., 3:], columns)
    colours = np.divide(colours, alpha, out=np.zeros_like(colours), where=alpha > 0)
    return np.concatenate([colours, alpha], axis=2)


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("size", [(12, 9), (8, 6), (5, 7), (23, 1), (24, 18)])
def test_box_average_is_the_area_weighted_mean(channels, size):
    pixels = np.random.default_rng(0).integers(0, 256, (18, 24, channels), dtype=np.uint8)
    if channels == 4:
        pixels[:6, :, 3] = 0  # a transparent band whose colours nobody sees
        pixels[6:10, :, 3] %= 4  # and one where 8-bit premultiplied colours would lose almost everything
    result = box_average(pixels, size)
    assert result.shape == (size[1], size[0], channels)
    expected = exact_average(pixels, *size)
    assert np.abs(result - expected).max() <= 0.5 + 1e-3  # nothing but the rounding to 8 bits


def test_transparent_pixels_do_not_colour_their_neighbours():
    red, nothing = (200, 0, 0, 255), (0, 255, 0, 0)
    pixels = np.array([[red, nothing], [nothing, nothing]], dtype=np.uint8)
    assert box_average(pixels, (1, 1)).tolist() == [[[200, 0, 0, 64]]]  # alpha 255 / 4 = 63.75


def test_averaging_the_alpha_commutes_with_compositing():
    pixels = np.random.default_rng(1).integers(0, 256, (16, 16, 4), dtype=np.uint8)

    def over_white(image):
        alpha = image[..., 3:].astype(np.float64) / 255
        return image[..., :3] * alpha + 255 * (1 - alpha)

    small = over_white(box_average(pixels, (4, 4)))
    expected = over_white(pixels).reshape(4, 4, 4, 4, 3).mean((1, 3))
    assert np.abs(small - expected).max() < 1.01  # colour and alpha are each rounded once


def test_images_come_in_order_as_stored(tmp_path):
    pixels = np.random.default_rng(2).integers(0, 256, (7, 5, 6, 4), dtype=np.uint8)
    paths = [save(tmp_path / f"{i}.png", image) for i, image in enumerate(pixels)]
    images = load_images(paths, workers=3)
    assert images.dtype == torch.uint8
    assert np.array_equal(images.numpy(), pixels)
    small = load_images(paths, size=(3, 2))
    assert np.array_equal(small[4].numpy(), box_average(pixels[4], (3, 2)))


def test_grey_and_palette_become_rgb_or_rgba(tmp_path):
    grey = save(tmp_path / "grey.png", [[10, 200]])
    assert image_shape(grey) == (2, 1, 3)
    assert load_images([grey]).tolist() == [[[[10] * 3, [200] * 3]]]

    palette = save(tmp_path / "palette.png", [[[255, 0, 0], [0, 0, 255]]], mode="P")
    assert Image.open(palette).mode == "P"
    assert load_images([palette]).tolist() == [[[[255, 0, 0], [0, 0, 255]]]]

    grey_alpha = save(tmp_path / "grey_alpha.png", [[[9, 9, 9, 128]]], mode="LA")
    assert image_shape(grey_alpha) == (1, 1, 4)
    assert load_images([grey_alpha]).tolist() == [[[[9, 9, 9, 128]]]]

    clear = tmp_path / "clear.png"
    Image.open(palette).save(clear, transparency=int(np.asarray(Image.open(palette))[0, 0]))
    assert load_images([clear])[0, 0, :, 3].tolist() == [0, 255]


def test_exif_rotation_is_not_applied(tmp_path):
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn me by 90 degrees"
    Image.new("RGB", (8, 4)).save(path, exif=exif)
    assert load_images([path]).shape == (1, 4, 8, 3)


def test_fit_width_keeps_the_proportion():
    assert fit_width(4032, 3024, 504) == (504, 378)
    assert fit_width(800, 800, 800) == (800, 800)
    assert fit_width(1000, 3, 10) == (10, 1)


@pytest.mark.parametrize("wanted", [0, -3, 801])
def test_images_are_never_enlarged(wanted):
    with pytest.raises(UserError, match=rf"^image_size {wanted}: .*1 to 800"):
        fit_width(800, 600, wanted)


def refused(paths, *words):
    with pytest.raises(UserError) as error:
        load_images(paths)
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message


def test_bad_files_are_named(tmp_path):
    good = save(tmp_path / "good.png", np.zeros((4, 4, 3)))
    refused([good, tmp_path / "gone.png"], tmp_path / "gone.png", "no such image")

    text = tmp_path / "text.png"
    text.write_text("not a picture")
    refused([good, text], text, "not an image")

    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3))
    for name, keep in (("cut.png", 3000), ("cut.jpg", 900), ("head.png", 20)):
        whole = save(tmp_path / f"whole_{name}", noise)
        cut = tmp_path / name
        cut.write_bytes(whole.read_bytes()[:keep])
        refused([cut], cut)

    damaged = tmp_path / "damaged.png"
    content = bytearray((tmp_path / "whole_cut.png").read_bytes())
    content[2000:2100] = bytes(100)
    damaged.write_bytes(content)
    refused([damaged], damaged, "damaged")

    folder = tmp_path / "folder.png"
    folder.mkdir()
    refused([folder], folder)


def test_unsupported_pixels_are_named(tmp_path):
    deep = tmp_path / "deep.png"
    Image.fromarray(np.full((2, 2), 40000, dtype=np.uint16)).save(deep)
    refused([deep], deep, "I;16", "8-bit")
    ink = tmp_path / "ink.jpg"
    Image.new("CMYK", (2, 2)).save(ink)
    refused([ink], ink, "CMYK")


def test_images_must_agree(tmp_path):
    wide = save(tmp_path / "wide.png", np.zeros((4, 6, 3)))
    tall = save(tmp_path / "tall.png", np.zeros((6, 4, 3)))
    clear = save(tmp_path / "clear.png", np.zeros((4, 6, 4)))
    refused([wide, wide, tall], wide, "6x4", tall, "4x6")
    refused([wide, clear], f"{clear} has alpha", f"{wide} not")
    refused([clear, wide], f"{clear} has alpha", f"{wide} not")
    refused([], "no images")


@pytest.mark.parametrize(("width", "factor", "warned"), [(120, 8, True), (120, 2, False), (40, 8, False)])
def test_images_that_a_factor_makes_tiny_are_said(tmp_path, width, factor, warned):
    Image.new("RGB", (width, width)).save(tmp_path / "a.png")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        size = loaded_size(tmp_path / "a.png", (float(width), float(width)), "a file", factor, None)
    assert size == (width // factor, width // factor)
    assert [str(w.message) for w in said] == (
        [f"{tmp_path}: images of 120x120 pixels become 15x15 by --factor 8; choose a smaller one"] if warned else []
    )
