"""OpenEXR images as 8-bit colours, decoded by the FFmpeg that imageio brings along.

Neither Pillow nor imageio's other plugins read OpenEXR (tifffile writes TIFF under that name). The files hold linear
light without an upper limit, premultiplied with alpha; photographs here are 8-bit sRGB with straight alpha. So
colours are divided by alpha, cut off at 1 and encoded with the sRGB curve.
"""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from jaxtyping import Float32, UInt8

from nerf_dfa.errors import UserError

MAGIC = b"\x76\x2f\x31\x01"
# Attributes stand at the beginning; no header of a photograph is longer.
MOST_HEADER = 1 << 20
SECONDS = 120
# The type of a value, by channels and the bytes that FFmpeg writes of a pixel: planes of green, blue, red (and
# alpha), or one of grey, in half or single precision.
LAYOUTS = {(3, 12): "<f4", (3, 6): "<f2", (3, 4): "<f4", (3, 2): "<f2", (4, 16): "<f4", (4, 8): "<f2"}


def is_exr(path: str | Path) -> bool:
    """Whether the name says that the image is in OpenEXR form."""
    return str(path).lower().endswith(".exr")


def exr_shape(path: Path) -> tuple[int, int, int]:
    """Width, height and channels (3, or 4 with alpha) of an image, from its header.

    Raises:
        UserError: there is no such file, or it is no OpenEXR image.
    """
    try:
        with open(path, "rb") as file:
            header = file.read(MOST_HEADER)
    except OSError as error:
        raise UserError(f"{path}: the image cannot be read ({error.strerror})") from None
    try:
        attributes = _attributes(header)
        left, top, right, bottom = struct.unpack("<4i", attributes["displayWindow"])
        width, height, names = right - left + 1, bottom - top + 1, _channels(attributes["channels"])
    except (ValueError, KeyError, struct.error):
        raise UserError(f"{path}: not an OpenEXR image of one part; convert it to 8-bit PNG") from None
    if width < 1 or height < 1:
        raise UserError(f"{path}: the OpenEXR image is {width}x{height} pixels large")
    return width, height, 4 if "A" in names else 3


def load_exr(path: Path) -> UInt8[np.ndarray, "h w c"]:
    """The pixels, RGB or RGBA with straight alpha, encoded in sRGB.

    Raises:
        UserError: the file is missing or damaged, or FFmpeg cannot decode its kind.
    """
    width, height, channels = exr_shape(path)
    # Without a pixel format of ours FFmpeg writes what is stored, exactly; its conversions round to about 11 bits.
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-nostdin", "-i", f"file:{path.resolve()}"]
    command += ["-frames:v", "1", "-f", "rawvideo", "-"]
    try:
        result = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        raise UserError(f"{path}: FFmpeg could not be run to decode it; convert it to 8-bit PNG") from None
    kind = LAYOUTS.get((channels, len(result.stdout) / (width * height)))
    if result.returncode or result.stderr or kind is None:
        reason = result.stderr.decode(errors="replace").strip().splitlines()
        raise UserError(
            f"{path}: the OpenEXR image is damaged or of a kind that FFmpeg cannot decode"
            f"{f' ({reason[-1]})' if reason else ''}; convert it to 8-bit PNG"
        )
    planes = np.nan_to_num(np.frombuffer(result.stdout, kind).reshape(-1, height, width).astype(np.float32))
    if len(planes) == 1:
        planes = planes.repeat(3, axis=0)
    green, blue, red = planes[:3]
    colours = np.stack([red, green, blue], axis=-1)
    if channels == 3:
        return _eight_bits(_to_srgb(colours))
    alpha = planes[3][..., None]
    straight = np.divide(colours, alpha, out=np.zeros_like(colours), where=alpha > 0)
    return _eight_bits(np.concatenate([_to_srgb(straight), alpha], axis=-1))


def _attributes(header: bytes) -> dict[str, bytes]:
    """The header's attributes by name: each is its name, its type, the length of its value and the value."""
    if header[:4] != MAGIC:
        raise ValueError("no OpenEXR header")
    attributes, at = {}, 8
    while header[at] if at < len(header) else 0:
        name_end = header.index(0, at)
        type_end = header.index(0, name_end + 1)
        (size,) = struct.unpack_from("<I", header, type_end + 1)
        attributes[header[at:name_end].decode("latin-1")] = header[type_end + 5 : type_end + 5 + size]
        at = type_end + 5 + size
    return attributes


def _channels(value: bytes) -> list[str]:
    """The names in a list of channels, each followed by 16 bytes that say how it is stored."""
    names, at = [], 0
    while value[at : at + 1] not in (b"", b"\0"):
        end = value.index(0, at)
        names.append(value[at:end].decode("latin-1"))
        at = end + 17
    return names


def _to_srgb(linear: Float32[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "h w 3"]:
    """IEC 61966-2-1."""
    linear = linear.clip(0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055).astype(np.float32)


def _eight_bits(values: Float32[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w c"]:
    return (255 * values.clip(0, 1) + 0.5).astype(np.uint8)
