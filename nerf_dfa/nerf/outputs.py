"""What is made of a trained field: views, videos and the quality report, as files in the run folder."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

import nerf_dfa
from nerf_dfa.evaluation.metrics import evaluate_folder, to_uint8, write_metrics
from nerf_dfa.evaluation.video import disparity_image, disparity_maximum, write_video
from nerf_dfa.files import written_whole
from nerf_dfa.machine import git_commit
from nerf_dfa.nerf.options import Options
from nerf_dfa.rendering import Cameras, Chunks, RadianceModel, RenderedImage, RenderSettings, render_image
from nerf_dfa.scenes import Scene, default_path, make_path
from nerf_dfa.scenes.scene import over_background


@dataclass(frozen=True)
class Studio:
    """A trained field, ready to be looked at."""

    model: RadianceModel
    scene: Scene
    settings: RenderSettings
    bf16: bool
    chunks: Chunks

    def image(self, cameras: Cameras, view: int) -> RenderedImage:
        """One whole view."""
        device = next(self.model.parameters()).device
        self.model.eval()
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
            return render_image(
                self.model,
                cameras,
                view,
                self.scene.near,
                self.scene.far,
                self.settings,
                self.scene.ndc,
                self.chunks,
            )


def make_studio(
    model: RadianceModel, scene: Scene, settings: RenderSettings, options: Options, say: Callable[[str], None]
) -> Studio:
    chunks = Chunks(options.chunk, lambda size: say(f"out of memory: going on with --chunk {size}"))
    return Studio(model, scene, settings, options.precision == "bf16", chunks)


def write_png(path: Path, image: torch.Tensor | Any) -> None:
    """An 8-bit image (height, width, 3), written atomically."""
    picture = Image.fromarray(image.numpy() if isinstance(image, torch.Tensor) else image)
    with written_whole(path) as unfinished:
        picture.save(unfinished, format="PNG")


def render_views(studio: Studio, cameras: Cameras, folder: Path, label: str) -> tuple[list[Path], list[Path]]:
    """All views as folder/000.png ... and their disparity as folder/depth/000.png ...; the paths of both.

    A colour image is on the disk as soon as it is rendered. Disparities come last, as the scene's far end is black
    and one common maximum white. Pictures of further views, from an earlier time, are removed.
    """
    (folder / "depth").mkdir(parents=True, exist_ok=True)
    for old in (*folder.glob("*.png"), *(folder / "depth").glob("*.png")):
        if old.stem.isdecimal() and int(old.stem) >= len(cameras):
            old.unlink()
    colours, disparities = [], []
    for view in tqdm(range(len(cameras)), label, unit="view", leave=False, disable=None):
        image = studio.image(cameras, view)
        colours.append(folder / f"{view:03d}.png")
        write_png(colours[-1], to_uint8(image.rgb))
        disparities.append((image.disparity - 1 / studio.scene.far).clamp(min=0))
    maximum = disparity_maximum(disparities)
    depths = [folder / "depth" / path.name for path in colours]
    for path, disparity in zip(depths, disparities, strict=True):
        write_png(path, disparity_image(disparity, maximum))
    return colours, depths


def render_video(
    studio: Studio, cameras: Cameras, folder: Path, stem: str, fps: int, say: Callable[[str], None]
) -> list[Path]:
    """Frames in folder/stem/, then the videos folder/stem_rgb.mp4 and folder/stem_disp.mp4; the videos' paths."""
    videos = []
    for kind, files in zip(("rgb", "disp"), render_views(studio, cameras, folder / stem, "video"), strict=True):
        frames = [torch.from_numpy(_read(path)) for path in files]
        video = write_video(folder / f"{stem}_{kind}.mp4", frames, fps)
        if video.note:
            say(video.note)
        videos.append(video.path)
    return videos


def reduced(cameras: Cameras, factor: int) -> Cameras:
    """The cameras at 1/factor of their resolution."""
    return cameras.resized(max(1, cameras.width // factor), max(1, cameras.height // factor))


def render_path(
    studio: Studio, folder: Path, options: Options, path: str, step: int, say: Callable[[str], None]
) -> list[Path]:
    """A video along a camera path ("auto": the one that suits the scene), named {expname}_{path}_{step}."""
    scene = studio.scene
    name = default_path(scene) if path == "auto" else path
    cameras = reduced(scene.cameras.with_poses(make_path(name, scene, options.frames)), options.render_factor)
    return render_video(studio, cameras, folder, f"{Path(options.expname).name}_{name}_{step:06d}", options.fps, say)


def _read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image.convert("RGB"))


def render_test_set(studio: Studio, folder: Path) -> dict[str, Any]:
    """Renders all test views into the folder and scores the PNGs on the disk (`evaluate_folder`)."""
    images, cameras, names = studio.scene.views("test")
    colours, _ = render_views(studio, cameras, folder, "test views")
    truth = torch.stack([to_uint8(over_background(image, studio.settings.background == 1)) for image in images])
    device = next(studio.model.parameters()).device
    return evaluate_folder(colours, truth, list(names), device=device)


def write_report(
    path: Path,
    scores: dict[str, Any],
    options: Options,
    scene: Scene,
    dataset_type: str,
    model: RadianceModel,
    step: int,
    seconds: float,
    restarts: int = 0,
) -> None:
    """metrics.json: the scores, and all that is needed to know how they came about."""
    device = next(model.parameters()).device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu"
    write_metrics(
        path,
        {
            "run": str(options.expname),
            "scene": scene.name,
            "dataset_type": dataset_type,
            "learning_rule": options.learning_rule,
            "settings": asdict(options),
            "parameters": sum(p.numel() for p in model.parameters()),
            "steps": step,
            "seconds": seconds,
            "split": "test",
            **scores,
            "dual": options.dual != "none",
            "seed": options.seed,
            "restarts": restarts,
            "device": f"{device.type} ({name})" if name != device.type else name,
            "threads": torch.get_num_threads(),
            "commit": git_commit(),
            "version": nerf_dfa.__version__,
            "torch": torch.__version__,
        },
    )
