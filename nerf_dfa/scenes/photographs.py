"""Photographs of a capture that are more than one 8-bit file each: OpenEXR images, and masks in files of their own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from nerf_dfa.errors import UserError
from nerf_dfa.scenes.exr import exr_shape, is_exr, load_exr
from nerf_dfa.scenes.images import box_average, image_shape, load_images
from nerf_dfa.scenes.pixels import empty_pixels


def photograph_shape(path: Path) -> tuple[int, int, int]:
    """Width, height and channels (3 or 4) of an image of any kind; reads the header only."""
    return exr_shape(path) if is_exr(path) else image_shape(path)


def load_photographs(
    paths: Sequence[Path], masks: Sequence[Path | None], size: tuple[int, int] | None = None
) -> UInt8[Tensor, "n h w c"]:
    """Images as `load_images` gives them, with masks as alpha.

    Where there are masks, the alpha of all images is their mask's brightness times the alpha that they already have:
    a pixel that is black in its mask is transparent, as if the camera saw past the scene there. Masks count before
    images are averaged down, so that masked colours do not bleed into edges.

    Args:
        paths: image files of one size.
        masks: for each a grey image of the same size, or None where the whole image counts.
        size: (width, height) to average each image down to; None keeps the stored size.

    Raises:
        UserError: a file is missing or damaged, or sizes or channels differ.
    """
    if not any(masks) and not any(map(is_exr, paths)):
        return load_images(paths, size)
    width, height, channels = _common_shape(paths, masks)
    size = size or (width, height)
    images = empty_pixels(len(paths), size[1], size[0], channels)
    rows = images.numpy()

    def compose(index: int) -> None:
        pixels = _pixels(paths[index])
        if any(masks):
            pixels = _masked(pixels, masks[index])
        rows[index] = pixels if size == (width, height) else box_average(pixels, size)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for _ in pool.map(compose, range(len(paths))):
            pass
    return images


def _common_shape(paths: Sequence[Path], masks: Sequence[Path | None]) -> tuple[int, int, int]:
    """The width, height and channels that all images will have."""
    width, height, channels = photograph_shape(paths[0])
    for file in (*paths[1:], *filter(None, masks)):
        shape = photograph_shape(file)
        if shape[:2] != (width, height):
            raise UserError(
                f"images of one scene and their masks must have one size: {paths[0]} is {width}x{height} pixels, "
                f"{file} is {shape[0]}x{shape[1]}"
            )
        if not any(masks) and shape[2] != channels:
            with_alpha, without = (file, paths[0]) if shape[2] == 4 else (paths[0], file)
            raise UserError(f"images of one scene must all be RGB or all RGBA: {with_alpha} has alpha, {without} not")
    return width, height, 4 if any(masks) else channels


def _pixels(path: Path) -> UInt8[np.ndarray, "h w c"]:
    return load_exr(path) if is_exr(path) else load_images([path], workers=1)[0].numpy()


def _masked(pixels: UInt8[np.ndarray, "h w c"], mask: Path | None) -> UInt8[np.ndarray, "h w 4"]:
    alpha = pixels[..., 3] if pixels.shape[-1] == 4 else np.full(pixels.shape[:2], 255, dtype=np.uint8)
    if mask is not None:
        seen = _pixels(mask)[..., 0]
        alpha = ((alpha.astype(np.uint16) * seen + 127) // 255).astype(np.uint8)
    return np.concatenate([pixels[..., :3], alpha[..., None]], axis=-1)
