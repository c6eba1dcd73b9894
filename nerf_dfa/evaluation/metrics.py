"""PSNR, SSIM and LPIPS of rendered views, computed on the 8-bit images that lie on disk.

An image is scored as anybody who opens the PNG would score it: prediction and truth are both rounded to
8 bits (`to_uint8`), and the file is read again. A scene's PSNR is the mean of its images' PSNRs, as in the
NeRF papers; the PSNR of the mean squared error over all images is another, smaller number.

Two images that are equal have an infinite PSNR. In Python it is `math.inf`; JSON has no word for it, so
`write_metrics` puts null, and `"psnr": null` says nothing else: a PSNR can always be computed.
A null SSIM or LPIPS means that it was not computed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import sys
import threading
import time
import urllib.request
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from nerf_dfa.errors import UserError
from nerf_dfa.files import write_text, written_whole

# The window of Wang et al. 2004, "Image quality assessment", which the NeRF papers use.
SSIM_SIGMA = 1.5
SSIM_WINDOW = 11
SSIM_K1, SSIM_K2 = 0.01, 0.03

# VGG halves its input four times.
LPIPS_SMALLEST = 16

# The ImageNet weights that lpips builds on, and the first digits of their SHA-256 (torchvision's naming).
VGG_URL = "https://download.pytorch.org/models/vgg16-397923af.pth"
VGG_SHA256 = "397923af"
ANSWER_SECONDS = 5.0
DOWNLOAD_SECONDS = 180.0


def to_uint8(
    image: Float[Tensor, "*shape"] | Float[np.ndarray, "*shape"],
) -> UInt8[Tensor, "*shape"] | UInt8[np.ndarray, "*shape"]:
    """8-bit values of colours in [0, 1], rounded to the nearest; values outside are clipped.

    Raises:
        UserError: a value is not a number, which only a diverged network renders.
    """
    if bool((image.isnan() if isinstance(image, Tensor) else np.isnan(image)).any()):
        raise UserError(
            "the image holds values that are not numbers (NaN): the network has diverged; go on from an earlier "
            "checkpoint, by a lower --lrate"
        )
    if isinstance(image, Tensor):
        return (image.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)
    return np.rint(np.clip(image.astype(np.float32), 0, 1) * 255).astype(np.uint8)


def mse_to_psnr(mse: float | int) -> float:
    """Peak signal-to-noise ratio in dB of a mean squared error over values in [0, 1]; of 0, infinity."""
    if mse < 0:
        raise ValueError(f"a mean squared error is at least 0, got {mse}")
    return math.inf if mse == 0 else -10 * math.log10(mse)


def psnr_8bit(pred: UInt8[Tensor, "*shape"], true: UInt8[Tensor, "*shape"]) -> float:
    """PSNR in dB of 8-bit values; of equal ones, infinity."""
    return mse_to_psnr(float(((pred.double() - true.double()) / 255).square().mean()))


def image_metrics(
    pred: UInt8[Tensor, "height width 3"] | UInt8[np.ndarray, "height width 3"],
    true: (
        UInt8[Tensor, "height width 3"]
        | UInt8[np.ndarray, "height width 3"]
        | Float[Tensor, "height width 3"]
        | Float[np.ndarray, "height width 3"]
    ),
    lpips_model: nn.Module | None = None,
) -> dict[str, float | None]:
    """Scores of one predicted image; a `true` image of floats in [0, 1] is rounded to 8 bits first.

    Returns:
        "psnr": dB, `math.inf` for equal images.
        "ssim": Gaussian window of 11 pixels with sigma 1.5, K1 .01, K2 .03, population covariance, data
            range 1, mean over channels and over all places where the window fits; None if it fits nowhere.
        "lpips": the distance by `lpips_model` (see `load_lpips`); None without one or below 16 pixels.
    """
    pred, true = _as_8_bit(pred), _as_8_bit(true)
    if pred.shape != true.shape:
        raise ValueError(f"images of different sizes: predicted {pred.shape}, true {true.shape}")
    scaled_pred, scaled_true = pred / 255.0, true / 255.0
    return {
        "psnr": mse_to_psnr(float(np.mean((scaled_pred - scaled_true) ** 2))),
        "ssim": _ssim(scaled_pred, scaled_true),
        "lpips": _lpips(pred, true, lpips_model),
    }


def load_lpips(device: torch.device | str = "cpu") -> tuple[nn.Module | None, str | None]:
    """LPIPS with the VGG backbone, as (model, None), or (None, reason in one line) where it cannot be had.

    It needs the package lpips, a torchvision that fits the installed torch, and the ImageNet weights of
    VGG-16 (528 MB), which are downloaded once into torch's cache. Nothing is raised and nothing printed to
    stdout. A network that does not answer costs 5 seconds, and a download that would take longer than
    3 minutes is given up as soon as that shows.
    """
    problem = "lpips cannot be imported"
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")  # lpips calls torchvision by a deprecated argument
            import lpips

            problem = "the VGG weights of LPIPS cannot be fetched"
            _fetch_vgg()
            problem = "LPIPS cannot be built"
            model = lpips.LPIPS(net="vgg", verbose=False)
            return model.eval().requires_grad_(False).to(device), None
    except Exception as error:  # third-party code that nothing else depends on: any failure is a reason
        said = " ".join(f"{type(error).__name__}: {error}".split())
        hint = "; install the torchvision that was built for this torch" if "torchvision::" in said else ""
        return None, f"{problem} ({said[:200]}){hint}"


def evaluate_folder(
    rendered: Sequence[Path],
    truth: (
        UInt8[Tensor, "views height width 3"]
        | UInt8[np.ndarray, "views height width 3"]
        | Float[Tensor, "views height width 3"]
        | Float[np.ndarray, "views height width 3"]
    ),
    names: Sequence[str],
    device: torch.device | str = "cpu",
    with_lpips: bool = True,
) -> dict[str, Any]:
    """Scores of rendered views, read again from their PNG files, against the photographs.

    Args:
        rendered: one 8-bit RGB file per view.
        truth: the photographs in the same order, 8-bit or in [0, 1].
        names: what the views are called in the result.
        device: where LPIPS is computed.
        with_lpips: False leaves LPIPS out (it takes seconds per megapixel on a CPU).

    Returns:
        "views", "image_width", "image_height"; "psnr", "ssim", "lpips": means over the views; "images": a list
        of {"name", "psnr", "ssim", "lpips"}; and, only where "lpips" is None, "lpips_unavailable": the reason.

    Raises:
        UserError: a file is missing, is no 8-bit RGB image or has another size than its photograph.
    """
    views, height, width = truth.shape[:3]
    if not views or not views == len(rendered) == len(names):
        raise ValueError(f"{len(rendered)} files and {len(names)} names for {views} photographs")
    if not with_lpips:
        model, reason = None, "not asked for"
    elif min(height, width) < LPIPS_SMALLEST:
        model, reason = None, f"the images are smaller than {LPIPS_SMALLEST} pixels"
    else:
        model, reason = load_lpips(device)

    images: list[dict[str, Any]] = []
    for path, true, name in tqdm(zip(rendered, truth, names, strict=True), "metrics", views, leave=False, disable=None):
        pred = _read_rgb(path)
        if pred.shape[:2] != (height, width):
            raise UserError(
                f"{path}: {pred.shape[1]}x{pred.shape[0]} pixels, but its photograph has {width}x{height}; "
                f"render it again at that size"
            )
        images.append({"name": name, **image_metrics(pred, true, model)})

    result: dict[str, Any] = {"views": views, "image_width": width, "image_height": height}
    for metric in ("psnr", "ssim", "lpips"):
        result[metric] = _mean([image[metric] for image in images])
    if model is None:
        result["lpips_unavailable"] = reason
    return {**result, "images": images}


def write_metrics(path: Path, metrics: Mapping[str, Any]) -> None:
    """Write metrics as JSON that every parser reads: infinite and undefined numbers become null.

    The file is either the old one or the whole new one, even if the program is stopped meanwhile.
    """
    text = json.dumps(_plain(metrics), indent=2, allow_nan=False) + "\n"
    write_text(path, text)


def _as_8_bit(image: Tensor | np.ndarray) -> np.ndarray:
    if image.dtype not in (torch.uint8, np.uint8):
        image = to_uint8(image)
    return image.cpu().numpy() if isinstance(image, Tensor) else image


def _ssim(pred: np.ndarray, true: np.ndarray) -> float | None:
    if min(pred.shape[:2]) < SSIM_WINDOW:
        return None
    from skimage.metrics import structural_similarity  # takes half a second to import

    return float(
        structural_similarity(
            pred,
            true,
            data_range=1.0,
            channel_axis=-1,
            gaussian_weights=True,  # the window's width follows from sigma: 2 int(3.5 sigma + .5) + 1 = 11
            sigma=SSIM_SIGMA,
            use_sample_covariance=False,
            K1=SSIM_K1,
            K2=SSIM_K2,
        )
    )


def _lpips(pred: np.ndarray, true: np.ndarray, model: nn.Module | None) -> float | None:
    if model is None or min(pred.shape[:2]) < LPIPS_SMALLEST:
        return None
    device = next(model.parameters(), torch.empty(0)).device

    def scaled(
        image: np.ndarray,
    ) -> Tensor:  # (height, width, 3) in 0..255 -> (1, 3, height, width) in [-1, 1]
        return torch.tensor(image, dtype=torch.float32, device=device).permute(2, 0, 1)[None] / 127.5 - 1

    with torch.no_grad():
        return float(model(scaled(pred), scaled(true)))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def _read_rgb(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as file:
            if file.mode != "RGB":
                raise UserError(f"{path}: expected an 8-bit RGB image, found one of mode {file.mode}")
            return np.array(file)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; it was to hold a rendered view") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read as an image ({' '.join(str(error).split())})") from None


def _plain(value: Any) -> Any:
    """The same value in JSON's own types: NumPy's and torch's scalars unwrapped, paths as text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Path | torch.device | torch.dtype):
        return str(value)
    if isinstance(value, np.generic) or (isinstance(value, Tensor) and value.ndim == 0):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _fetch_vgg() -> None:
    """Put VGG-16's weights where torchvision looks for them, unless they are there, and never wait for long.

    torchvision would fetch them itself, but without any time-out.
    """
    target = Path(torch.hub.get_dir()) / "checkpoints" / VGG_URL.rsplit("/", 1)[1]
    if target.exists():
        return
    begin, digest, received = time.monotonic(), hashlib.sha256(), 0
    with _opened(VGG_URL, ANSWER_SECONDS) as answer:
        total = int(answer.headers["Content-Length"])
        target.parent.mkdir(parents=True, exist_ok=True)
        with (
            written_whole(target) as unfinished,
            unfinished.open("wb") as file,
            tqdm(total=total, desc="VGG weights for LPIPS", unit="B", unit_scale=True) as bar,
        ):
            while chunk := answer.read(1 << 20):
                file.write(chunk)
                digest.update(chunk)
                received += len(chunk)
                bar.update(len(chunk))
                elapsed = time.monotonic() - begin
                if elapsed > ANSWER_SECONDS and elapsed * total > DOWNLOAD_SECONDS * received:
                    raise TimeoutError(f"too slow; fetch {VGG_URL} yourself and save it as {target}")
            file.flush()
            if received != total or not digest.hexdigest().startswith(VGG_SHA256):
                raise ConnectionError(f"{VGG_URL} arrived damaged")


def _opened(url: str, seconds: float) -> Any:
    """`urlopen` with one limit on the whole wait; its own counts anew for each address, and not for names."""
    outcome: list[Any] = []

    def ask() -> None:
        try:
            outcome.append(urllib.request.urlopen(url, timeout=seconds))
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise TimeoutError(f"no answer within {seconds:g} seconds")
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]
