"""Reading photographs: decoded in threads, checked at the door, made smaller by averaging areas.

Pixels stay 8-bit: RGB, or RGBA with straight (not premultiplied) alpha. They are taken as the file stores
them, without EXIF rotation or gamma, because that is what camera poses are estimated from.
"""

from __future__ import annotations

import os
import warnings
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Shaped, UInt8
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from nerf_dfa.errors import UserCaution, UserError
from nerf_dfa.scenes.pixels import empty_pixels

# Pillow's names for what converts to 8-bit RGB or RGBA without a decision of ours; 16-bit grey (I;16),
# float (F) and print colours (CMYK) would need one.
READABLE_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")
# Endings of the files that a loader looks for where no list names the images.
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
# The shape of an image may differ from the one a camera was made for by the rounding of sizes, not by more.
ASPECT_TOLERANCE = 0.02
# Of an image's shorter side; one that is made smaller than that was hardly meant to be.
FEW_PIXELS = 48
# From 89 megapixels on Pillow warns of an attack, which for a panorama means nothing; from twice as many it refuses.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


@contextmanager
def _opened(path: str | Path) -> Iterator[Image.Image]:
    """An image whose header is read; what goes wrong with the file inside the block is said in one line."""
    try:
        with Image.open(path) as image:
            if image.mode not in READABLE_MODES:
                raise UserError(f"{path}: pixels of mode {image.mode} are not supported; save it as 8-bit RGB or RGBA")
            yield image
    except FileNotFoundError:
        raise UserError(f"{path}: no such image") from None
    except UnidentifiedImageError:
        raise UserError(f"{path}: not an image, or of an unknown format") from None
    except (OSError, SyntaxError, ValueError, EOFError, zlib.error, Image.DecompressionBombError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path}: the image is damaged or cannot be read ({reason})") from error


def image_shape(path: str | Path) -> tuple[int, int, int]:
    """Width, height and channels (3 or 4) that `load_images` would give; reads the header only."""
    with _opened(path) as image:
        return image.width, image.height, 4 if image.has_transparency_data else 3


def image_folder(root: Path, factor: int | None) -> tuple[str, int]:
    """The folder of images for a factor, relative to the scene's, and how many times too large its images are.

    That is images_{factor} where there is one, else `images`, the originals; None, 0 and 1 mean the originals.

    Raises:
        UserError: there is neither folder, or the factor is negative.
    """
    factor = factor or 1
    if factor < 0:
        raise UserError(f"factor {factor}: expected 0 or more")
    for folder, shrink in ((f"images_{factor}", 1), ("images", factor)):
        if folder != "images_1" and (root / folder).is_dir():
            return folder, shrink
    wanted = "images" if factor == 1 else f"images_{factor} or images"
    found = ", ".join(sorted(path.name for path in root.glob("images*") if path.is_dir())) or "none"
    raise UserError(f"{root}: no folder {wanted} for factor {factor}; image folders found: {found}")


def fit_width(width: int, height: int, wanted: int) -> tuple[int, int]:
    """Size (width, height) of an image made `wanted` pixels wide in proportion; it is never enlarged."""
    if not 1 <= wanted <= width:
        raise UserError(f"image_size {wanted}: expected a width of 1 to {width} pixels, the images' own")
    return wanted, max(1, round(height * wanted / width))


def loaded_size(path: Path, made: tuple[float, float], by: str, shrink: int, image_size: int | None) -> tuple[int, int]:
    """The size (width, height) to load images in: image_size wide, else 1 / shrink of the stored size.

    Args:
        path: one of the images.
        made: width and height that the cameras were made for; the image may be a reduced one, but has to have
            that shape.
        by: the file that says so.

    Raises:
        UserError: the image has another shape, or image_size is out of its range.
    """
    width, height, _ = image_shape(path)
    if abs(width / height * made[1] / made[0] - 1) > ASPECT_TOLERANCE + 1 / height:
        raise UserError(
            f"{path} is {width}x{height} pixels, but {by} was made for {made[0]:g}x{made[1]:g}: "
            "cropped or turned images do not fit these poses"
        )
    if image_size is not None:
        return fit_width(width, height, image_size)
    size = max(1, round(width / shrink)), max(1, round(height / shrink))
    if shrink > 1 and min(size) < FEW_PIXELS <= min(width, height):
        message = f"{path.parent}: images of {width}x{height} pixels become {size[0]}x{size[1]} by --factor {shrink}"
        warnings.warn(f"{message}; choose a smaller one", UserCaution, stacklevel=3)
    return size


def load_images(
    paths: Sequence[str | Path], size: tuple[int, int] | None = None, workers: int | None = None
) -> UInt8[Tensor, "n h w c"]:
    """Images of one resolution and one kind as a single 8-bit tensor, mapped from a file where large (`empty_pixels`).

    Args:
        paths: image files; grey and palette images become RGB, or RGBA where they hold transparency.
        size: (width, height) to average each image down to (`box_average`); None keeps the stored size.
        workers: threads that decode; None takes one per processor, at most eight.

    Raises:
        UserError: a file is missing, damaged or of an unsupported kind, or sizes or channels differ.
    """
    if not paths:
        raise UserError("there are no images to load")
    width, height, channels = _common_shape(paths)
    width, height = size or (width, height)
    images = empty_pixels(len(paths), height, width, channels)
    rows = images.numpy()

    def decode(index: int) -> None:
        with _opened(paths[index]) as image:
            pixels = np.asarray(image.convert("RGBA" if channels == 4 else "RGB"))
        rows[index] = pixels if pixels.shape[:2] == (height, width) else box_average(pixels, (width, height))

    with ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1)) as pool:
        for _ in pool.map(decode, range(len(paths))):
            pass
    return images


def _common_shape(paths: Sequence[str | Path]) -> tuple[int, int, int]:
    """The width, height and channels that all images share, from their headers."""
    first = image_shape(paths[0])
    for path in paths[1:]:
        shape = image_shape(path)
        if shape[:2] != first[:2]:
            raise UserError(
                f"images of one scene must have one size: {paths[0]} is {first[0]}x{first[1]} pixels, "
                f"{path} is {shape[0]}x{shape[1]}"
            )
        if shape[2] != first[2]:
            with_alpha, without = (path, paths[0]) if shape[2] == 4 else (paths[0], path)
            raise UserError(f"images of one scene must all be RGB or all RGBA: {with_alpha} has alpha, {without} not")
    return first


def box_average(pixels: UInt8[np.ndarray, "h w c"], size: tuple[int, int]) -> UInt8[np.ndarray, "h2 w2 c"]:
    """Pixels averaged over the areas that the new, larger pixels cover, in any ratio, rounded to 8 bits.

    A pixel that lies across a border counts with its share on each side. (Pillow's BOX counts it wholly or
    not at all, and rounds premultiplied colours to 8 bits.) Colours are weighted with their alpha, so that the
    unseen colour of transparent pixels does not bleed into edges: compositing before or after is the same.

    Args:
        pixels: RGB, or RGBA with straight alpha.
        size: (width, height) of the result.
    """
    width, height = size
    transparent = pixels.shape[-1] == 4
    values = pixels
    if transparent:
        values = pixels.astype(np.float32)
        values[..., :3] *= values[..., 3:]
    averages = _average(_average(values, height, axis=0), width, axis=1)
    if transparent:
        colours, alpha = averages[..., :3], averages[..., 3:]
        np.divide(colours, alpha, out=colours, where=alpha > 0)
    return (averages + 0.5).astype(np.uint8)


def _average(values: Shaped[np.ndarray, "h w c"], size: int, axis: int) -> Float32[np.ndarray, "h2 w2 c"]:
    """Area averages along one axis, summed over the input rows (or columns) that each output row covers."""
    count = values.shape[axis]
    # In units of 1 / size of an input row everything is an integer: output row r is [r, r + 1] * count, and
    # input row k covers [k, k + 1] * size.
    low = np.arange(size) * count
    first, last = low // size, -(-(low + count) // size)
    averages = np.zeros([size if a == axis else n for a, n in enumerate(values.shape)], dtype=np.float32)
    for tap in range((last - first).max()):
        index = first + tap
        overlap = np.minimum((index + 1) * size, low + count) - np.maximum(index * size, low)
        share = (np.maximum(overlap, 0) / count).astype(np.float32)
        rows = np.take(values, np.minimum(index, count - 1), axis)
        averages += np.expand_dims(share, (1, 2) if axis == 0 else (0, 2)) * rows
    return averages
