"""From photographs or a video to a scene, by COLMAP: python -m nerf_dfa.scenes.capture PHOTOS_OR_VIDEO OUT"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import imageio.v3 as iio
import imageio_ffmpeg
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from nerf_dfa.errors import UserError
from nerf_dfa.scenes.images import IMAGE_SUFFIXES, image_shape
from nerf_dfa.scenes.survey import suitable_factor

CAMERA_MODELS = ("OPENCV", "OPENCV_FISHEYE", "SIMPLE_RADIAL", "RADIAL", "SIMPLE_PINHOLE", "PINHOLE")
# COLMAP starts from pairs and needs a third view to fix the scale between two.
LEAST_IMAGES = 3
FRAMES = 100
# Share of the images without which a capture deserves a word.
ENOUGH = 0.8
JPEG_QUALITY = 95
# Lines of a failed program's output that go into the message.
LAST_LINES = 3
INSTALL = (
    "Debian and Ubuntu: apt install colmap; macOS: brew install colmap; conda install -c conda-forge colmap; "
    "Windows: https://colmap.github.io/install.html"
)


class Capture(NamedTuple):
    """root: the scene's folder; images: how many it has; registered: of how many COLMAP found the pose.

    factor: a downsampling factor that suits the images' size.
    """

    root: Path
    images: int
    registered: int
    factor: int


def capture(
    source: Path,
    out: Path,
    *,
    fps: float | None = None,
    count: int = FRAMES,
    camera_model: str = "OPENCV",
    gpu: bool = True,
    colmap: str = "colmap",
) -> Capture:
    """Makes a scene of photographs or a video: out/images and COLMAP's model of the cameras in out/sparse/0.

    What an earlier call has done is kept: a call that was broken off is continued, a finished one is only reported.

    Args:
        source: a folder of photographs of one size, taken with one camera, or a video.
        out: the scene's folder.
        fps: frames to take from each second of a video; by default `count` in all, whatever it is long.
        count: see fps. Of the frames that each taken one stands for it is the sharpest.
        camera_model: COLMAP's name of the lens.
        gpu: let COLMAP use a graphics card, where it can: for that it needs a display or a build with CUDA.
        colmap: the program.

    Raises:
        UserError: COLMAP is missing or fails, or the source is not as described.
    """
    source, out = Path(source), Path(out)
    if fps is not None and not fps > 0:
        raise UserError(f"fps {fps:g}: it has to be greater than 0")
    if count < LEAST_IMAGES:
        raise UserError(f"count {count}: expected {LEAST_IMAGES} frames or more")
    if not source.exists():
        raise UserError(f"{source}: no such folder or file")
    program = shutil.which(colmap)
    if program is None:
        raise UserError(f"{colmap}: not installed or not on the PATH; {INSTALL}")
    try:
        images, width = _gather(source, out, fps, count)
        if not (out / "sparse" / "0").is_dir():
            _reconstruct(program, out, source.is_file(), camera_model, gpu)
    except OSError as error:
        raise UserError(f"{error.filename or out}: cannot be written ({error.strerror or error})") from error
    return Capture(out, images, registered(out / "sparse" / "0"), suitable_factor(width))


def _gather(source: Path, out: Path, fps: float | None, count: int) -> tuple[int, int]:
    """Fills out/images, unless it is there already, and returns how many images are in it and their width."""
    folder = out / "images"
    if not folder.is_dir():
        unfinished = out / ".images.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)  # what a killed process left
        unfinished.mkdir(parents=True)
        try:
            if source.is_dir():
                for photograph in _photographs(source):
                    shutil.copyfile(photograph, unfinished / photograph.name)
            else:
                for number, frame in enumerate(video_frames(source, fps, count)):
                    name = f"frame_{number:05}.jpg"
                    Image.fromarray(frame).save(unfinished / name, quality=JPEG_QUALITY, subsampling=0)
            _check_images(unfinished, source)
        except UserError:
            shutil.rmtree(unfinished)
            raise
        unfinished.rename(folder)
    return _check_images(folder, folder)


def _photographs(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    return [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]


def _check_images(folder: Path, source: Path) -> tuple[int, int]:
    """Number and width of the images in a folder; UserError, naming the source, unless they are enough and alike."""
    images = _photographs(folder)
    if len(images) < LEAST_IMAGES:
        kinds = ", ".join(IMAGE_SUFFIXES)
        raise UserError(f"{source}: {len(images)} images ({kinds}) in it; expected {LEAST_IMAGES} or more, better 30")
    sizes = {image.name: image_shape(image)[:2] for image in images}
    width, height = sizes[images[0].name]
    for name, size in sizes.items():
        if size != (width, height):
            raise UserError(
                f"{source}: {name} is {size[0]}x{size[1]} pixels and {images[0].name} {width}x{height}; the images of "
                "a scene have one size, so leave out those of the other kind, or turn them"
            )
    return len(images), width


def video_frames(file: Path, fps: float | None, count: int) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """Frames of a video, evenly spaced: the sharpest of each stretch of 1 / fps seconds, or of a count-th of it all.

    Raises:
        UserError: the file is no video that ffmpeg can read.
    """
    try:
        total, seconds = imageio_ffmpeg.count_frames_and_secs(str(file))
        wanted = min(total, max(1, round(seconds * fps)) if fps is not None else count)
        frames = iio.imiter(file, plugin="FFMPEG")
        yield from sharpest((min(index * wanted // total, wanted - 1), frame) for index, frame in enumerate(frames))
    except (RuntimeError, ValueError, IndexError, ZeroDivisionError, OSError) as error:
        raise UserError(f"{file}: no video that ffmpeg can read") from error


def sharpest(
    frames: Iterable[tuple[int, UInt8[np.ndarray, "h w 3"]]],
) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """Of each run of frames with the same number the one that is sharpest."""
    current, best, best_score = None, None, -1.0
    for number, frame in frames:
        if number != current and best is not None:
            yield best
            best_score = -1.0
        current = number
        if (score := sharpness(frame)) > best_score:
            best, best_score = frame, score
    if best is not None:
        yield best


def sharpness(frame: UInt8[np.ndarray, "h w 3"]) -> float:
    """Mean square of the Laplacian of the green channel at half the resolution, where noise counts less."""
    height, width = (n // 2 * 2 for n in frame.shape[:2])
    green = frame[:height, :width, 1].astype(np.float32).reshape(height // 2, 2, width // 2, 2).mean((1, 3))
    inner = green[1:-1, 1:-1]
    laplacian = green[:-2, 1:-1] + green[2:, 1:-1] + green[1:-1, :-2] + green[1:-1, 2:] - 4 * inner
    return float(np.square(laplacian).mean()) if laplacian.size else 0.0


def _reconstruct(program: str, out: Path, is_video: bool, camera_model: str, gpu: bool) -> None:
    """Runs COLMAP on out/images; out/sparse appears when it is whole, its largest model as 0."""
    database, models = out / "database.db", out / ".sparse.unfinished"
    shutil.rmtree(models, ignore_errors=True)
    models.mkdir()
    data, pictures = ["--database_path", str(database)], ["--image_path", str(out / "images")]
    lens = ["--ImageReader.camera_model", camera_model, "--ImageReader.single_camera", "1"]
    matcher = "sequential_matcher" if is_video else "exhaustive_matcher"
    without = not gpu or not _has_gpu(program)
    no_gpu = {name: _gpu_option(program, name) for name in ("feature_extractor", matcher)} if without else {}
    for title, name, arguments in (
        ("finding features", "feature_extractor", [*data, *pictures, *lens]),
        ("matching them", matcher, data),
        ("placing the cameras", "mapper", [*data, *pictures, "--output_path", str(models)]),
    ):
        print(f"{title} (colmap {name}) ...", flush=True)
        _run([program, name, *arguments, *no_gpu.get(name, [])], out / "colmap.log")
    found = sorted((path for path in models.iterdir() if path.is_dir()), key=registered, reverse=True)
    if not found:
        raise UserError(f"{out / 'images'}: COLMAP found no cameras: the images overlap too little or lack detail")
    for number, model in enumerate(found):  # in two steps, as the new names may be taken
        model.rename(models / f"model {number}")
    for number in range(len(found)):
        (models / f"model {number}").rename(models / str(number))
    shutil.rmtree(out / "sparse", ignore_errors=True)
    models.rename(out / "sparse")


def _has_gpu(program: str) -> bool:
    """Whether COLMAP can use a graphics card: by CUDA, or by OpenGL where there is a display."""
    return "with CUDA" in _help(program) or not sys.platform.startswith("linux") or "DISPLAY" in os.environ


def _gpu_option(program: str, name: str) -> list[str]:
    """The option that keeps a step off the graphics card; COLMAP 3.13 renamed it."""
    stage = "Extraction" if name == "feature_extractor" else "Matching"
    kind = "Feature" if f"Feature{stage}.use_gpu" in _help(program, name) else "Sift"
    return [f"--{kind}{stage}.use_gpu", "0"]


def _help(*command: str) -> str:
    done = subprocess.run(
        [*command, "-h"], capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, env=_environment()
    )
    return done.stdout + done.stderr


def _environment() -> dict[str, str]:
    # Without a display COLMAP would end before it reads its options.
    return {"QT_QPA_PLATFORM": "offscreen", **os.environ} if "DISPLAY" not in os.environ else dict(os.environ)


def _run(command: Sequence[str], log: Path) -> None:
    """Runs a program, its output appended to a file; UserError with its last lines if it fails."""
    with open(log, "ab") as output:
        start = output.tell()
        status = subprocess.run(
            command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=_environment()
        ).returncode
    if status:
        text = log.read_bytes()[start:].decode(errors="replace")
        lines = [line.strip() for line in text.splitlines()]
        last = " | ".join([line for line in lines if line and not line.startswith(("@", "***"))][-LAST_LINES:])
        advice = "" if any("use_gpu" in word for word in command) or command[1] == "mapper" else "; try --no_gpu"
        raise UserError(
            f"colmap {command[1]} failed (status {status}): {last or 'it said nothing'}; the rest is in {log}{advice}"
        )


def registered(model: Path) -> int:
    """The number of images in a COLMAP model; 0 where there is none."""
    binary, text = model / "images.bin", model / "images.txt"
    if binary.is_file() and binary.stat().st_size >= 8:
        with open(binary, "rb") as file:
            return struct.unpack("<Q", file.read(8))[0]
    if text.is_file():
        lines = [line for line in text.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
        return (len(lines) + 1) // 2  # a line for the image and one, perhaps empty, for its points
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m nerf_dfa.scenes.capture",
        description="Make a scene of photographs or a video: COLMAP finds where they were taken from.",
    )
    parser.add_argument("source", type=Path, help="a folder of photographs, or a video")
    parser.add_argument("out", type=Path, help="the scene's folder")
    number = parser.add_mutually_exclusive_group()
    number.add_argument("--fps", type=float, help="frames to take from each second of a video")
    number.add_argument("--count", type=int, default=FRAMES, help=f"frames to take from a video (default: {FRAMES})")
    parser.add_argument("--camera_model", default="OPENCV", choices=CAMERA_MODELS, help="lens (default: OPENCV)")
    parser.add_argument("--no_gpu", action="store_true", help="COLMAP computes on the CPU alone")
    parser.add_argument("--colmap", default="colmap", help="COLMAP's program (default: colmap)")
    o = parser.parse_args(argv)
    try:
        made = capture(
            o.source.expanduser(), o.out.expanduser(), fps=o.fps, count=o.count, camera_model=o.camera_model,
            gpu=not o.no_gpu, colmap=o.colmap,
        )  # fmt: skip
    except UserError as error:
        print(f"capture: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command continues", file=sys.stderr)
        return 130
    print(f"{made.root}: {made.registered} of {made.images} images placed")
    if made.registered < ENOUGH * made.images:
        print("the others overlap too little with these: take more frames, or photographs from smaller steps")
    print(f"python train.py --datadir {shlex.quote(str(made.root))} --field grid --factor {made.factor}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
