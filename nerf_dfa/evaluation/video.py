"""Frames to a video file that plays everywhere, and disparities to frames."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from nerf_dfa.evaluation.metrics import to_uint8
from nerf_dfa.files import written_whole

# Constant quality of libx264: 0 is lossless, 23 its default, about 17 hard to tell from the original.
CRF = 17
# Enough samples for a percentile; 120 frames of 800x800 have twenty times as many.
PERCENTILE_SAMPLES = 4_000_000


class Video(NamedTuple):
    """Where a video was written, and in one line why it is not the mp4 that was asked for (None if it is)."""

    path: Path
    note: str | None


def write_video(
    path: Path,
    frames: Iterable[UInt8[np.ndarray, "height width 3"] | UInt8[Tensor, "height width 3"]],
    fps: float | int = 30,
) -> Video:
    """Write frames of one size as H.264 (yuv420p, BT.709 colours); as a GIF where ffmpeg is missing or fails.

    H.264 with halved colour resolution needs even sizes: an odd one is padded by repeating its last row or
    column. Nothing else is resized. All frames are held in memory until the file is written.

    Args:
        path: the file to write, ending in .mp4; the GIF gets the same name with .gif. An older file at that
            place is replaced only by a complete new one.
        frames: 8-bit RGB.
        fps: frames per second. A GIF counts time in hundredths of a second, so its speed may differ slightly.
    """
    if path.suffix.lower() != ".mp4":
        raise ValueError(f"{path}: a video's name ends in .mp4")
    if not fps > 0:
        raise ValueError(f"frames per second must be positive, got {fps}")
    images = [frame.cpu().numpy() if isinstance(frame, Tensor) else frame for frame in frames]
    sizes = sorted({image.shape[:2] for image in images})
    if len(sizes) != 1:
        raise ValueError(f"a video needs frames of one size, got {sizes if sizes else 'no frames'}")

    try:
        with written_whole(path) as unfinished:
            _encode_h264(unfinished, images, fps)
        return Video(path, None)
    except (ImportError, OSError, RuntimeError) as error:
        gif = path.with_suffix(".gif")
        with written_whole(gif) as unfinished:
            _encode_gif(unfinished, images, fps)
        return Video(gif, f"{gif.name} instead of {path.name}: {' '.join(str(error).split())}")


def disparity_maximum(
    disparities: Sequence[Float[Tensor, "height width"] | Float[np.ndarray, "height width"]],
) -> float:
    """The disparity to show as white: the 99th percentile of all that are finite and above 0; 0 if none is.

    Taken over all frames of a video, so that it does not flicker; zeros do not count, so that a small object
    before an empty background keeps its contrast.
    """
    pixels = sum(disparity.shape[0] * disparity.shape[1] for disparity in disparities)
    stride = max(1, pixels // PERCENTILE_SAMPLES)
    samples = np.concatenate([_array(disparity).ravel()[::stride] for disparity in disparities])
    samples = samples[np.isfinite(samples) & (samples > 0)]
    return float(np.percentile(samples, 99)) if samples.size else 0.0


def disparity_image(
    disparity: Float[Tensor, "height width"] | Float[np.ndarray, "height width"],
    maximum: float | int | None = None,
) -> UInt8[np.ndarray, "height width 3"]:
    """Disparity (1 / depth) in grey: far is black, `maximum` and nearer is white, infinity too; NaN is black.

    Without `maximum` the image is scaled by its own `disparity_maximum`.
    """
    if maximum is None:
        maximum = disparity_maximum([disparity])
    if maximum <= 0:
        maximum = 1.0
    grey = np.nan_to_num(_array(disparity) / maximum, nan=0.0, posinf=1.0, neginf=0.0)
    return np.repeat(to_uint8(grey)[..., None], 3, axis=-1)


def _array(disparity: Tensor | np.ndarray) -> np.ndarray:
    if isinstance(disparity, Tensor):
        return disparity.detach().float().cpu().numpy()
    return disparity.astype(np.float32)


def _encode_h264(path: Path, images: Sequence[np.ndarray], fps: float | int) -> None:
    """Raises ImportError, OSError or RuntimeError, with the reason, if no whole file came out."""
    import imageio_ffmpeg

    height, width = images[0].shape[:2]
    padding = ((0, height % 2), (0, width % 2), (0, 0))
    rate = str(Fraction(fps).limit_denominator(1001))
    size = f"{width + width % 2}x{height + height % 2}"
    # Players guess the colour matrix of an untagged file by its size; so it is chosen and said.
    colours = ["-vf", "scale=out_color_matrix=bt709:out_range=tv"]
    colours += [
        "-colorspace",
        "bt709",
        "-color_primaries",
        "bt709",
        "-color_trc",
        "bt709",
        "-color_range",
        "tv",
    ]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error"]
    command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", rate, "-i", "-"]
    command += ["-c:v", "libx264", "-crf", str(CRF), "-pix_fmt", "yuv420p", *colours]
    command += ["-movflags", "+faststart", str(path)]

    with tempfile.TemporaryFile() as messages:
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=messages, stderr=messages) as process:
            try:
                for image in images:
                    process.stdin.write(np.pad(image, padding, mode="edge").tobytes())
                process.stdin.close()
            except BrokenPipeError:
                pass  # ffmpeg ended early; what it said is read below
            except BaseException:
                process.kill()
                raise
        if process.returncode != 0:
            messages.seek(0)
            lines = messages.read().decode(errors="replace").strip().splitlines()
            raise RuntimeError(f"ffmpeg failed ({lines[-1] if lines else f'status {process.returncode}'})")


def _encode_gif(path: Path, images: Sequence[np.ndarray], fps: float | int) -> None:
    first, *rest = [Image.fromarray(image) for image in images]
    duration = max(20, round(1000 / fps))  # ms; viewers slow down what claims to be faster
    first.save(path, save_all=True, append_images=rest, duration=duration, loop=0)
