"""Small images with labels, in a training, a validation and a test part that never change.

| name      | images                      | split                                           | from                    |
|-----------|-----------------------------|-------------------------------------------------|-------------------------|
| `digits`  | 1,797 of 8x8, 10 classes    | 60/20/20 %, stratified                          | scikit-learn            |
| `fashion` | 70,000 of 28x28, 10 classes | official test; 1/6 of training for validation   | idx(.gz) files          |

Pixels are scaled to [0, 1] and images are flattened to rows.
"""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from nerf_dfa.errors import UserError

SPLIT_SEED = 2019  # of every split; experiments vary the seed of the network, never that of the data
PARTS = ("train", "val", "test")
DATASETS = ("digits", "fashion")
FASHION_FILES = {"train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")}
FASHION_FILES["test"] = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


@dataclass(frozen=True)
class Dataset:
    """Images (N, pixels) in [0, 1] and labels (N,) by part ("train", "val", "test"); index: rows of the source."""

    name: str
    images: dict[str, Float[Tensor, "_ pixels"]]
    labels: dict[str, Int[Tensor, " _"]]
    index: dict[str, Int[Tensor, " _"]]
    classes: int

    @property
    def pixels(self) -> int:
        return self.images["train"].shape[1]


def load_dataset(name: str, datadir: str | Path | None = None) -> Dataset:
    """The data set of that name. Raises UserError for an unknown name and for files that are missing or damaged."""
    if name not in DATASETS:
        raise UserError(f"unknown dataset '{name}'; there are {', '.join(DATASETS)}")
    if name == "digits":
        return load_digits()
    if datadir is None:
        raise UserError("dataset fashion needs datadir, the folder with train-images-idx3-ubyte.gz and its like")
    return load_fashion(Path(datadir))


def load_digits() -> Dataset:
    """scikit-learn's handwritten digits."""
    try:
        from sklearn.datasets import load_digits as load
    except ImportError:
        raise UserError("dataset digits comes with scikit-learn: pip install scikit-learn") from None
    bunch = load()
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    images = torch.from_numpy(bunch.data.astype(np.float32) / 16)  # its grey levels are 0 to 16
    return _dataset("digits", images, labels, stratified_split(labels, (0.6, 0.2, 0.2)))


def load_fashion(datadir: Path) -> Dataset:
    """Fashion-MNIST (or MNIST, which has the same files)."""
    parts = {}
    for part, (image_file, label_file) in FASHION_FILES.items():
        images, labels = read_idx(datadir / image_file), read_idx(datadir / label_file)
        if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
            raise UserError(
                f"{datadir}: {image_file} of shape {images.shape} and {label_file} of shape {labels.shape} do not match"
            )
        rows = images.reshape(len(images), -1).astype(np.float32) / 255
        parts[part] = torch.from_numpy(rows), torch.from_numpy(labels.astype(np.int64))
    images, labels = (torch.cat(pair) for pair in zip(*parts.values(), strict=True))
    count = len(parts["train"][1])
    train, val, _ = stratified_split(labels[:count], (5 / 6, 1 / 6, 0.0))
    return _dataset("fashion", images, labels, (train, val, torch.arange(count, len(labels))))


def stratified_split(
    labels: Int[Tensor, " n"], fractions: tuple[float, float, float]
) -> tuple[Int[Tensor, " _"], Int[Tensor, " _"], Int[Tensor, " _"]]:
    """Indices of three parts that hold every class in these fractions, to within one image; always the same."""
    generator = torch.Generator().manual_seed(SPLIT_SEED)
    parts: tuple[list[Tensor], ...] = ([], [], [])
    for label in labels.unique():
        members = (labels == label).nonzero()[:, 0]
        members = members[torch.randperm(len(members), generator=generator)]
        first = round(fractions[0] * len(members))
        second = round((fractions[0] + fractions[1]) * len(members))
        for part, chosen in zip(parts, members.tensor_split([first, second]), strict=True):
            part.append(chosen)
    train, val, test = (torch.cat(part).sort().values for part in parts)
    return train, val, test


def read_idx(path: Path) -> np.ndarray:
    """Bytes of an idx file (`path` or `path.gz`) as an array: 0, 0, type 8, dimensions, big-endian sizes, data."""
    zipped = path.with_name(path.name + ".gz")
    if not path.exists() and not zipped.exists():
        raise UserError(f"no {path} and no {zipped.name} beside it")
    try:
        data = path.read_bytes() if path.exists() else gzip.decompress(zipped.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    dimensions = data[3] if len(data) > 3 else 0
    shape = np.frombuffer(data[4 : 4 + 4 * dimensions], ">u4") if len(data) >= 4 + 4 * dimensions else ()
    start = 4 + 4 * dimensions
    if data[:3] != b"\x00\x00\x08" or len(data) - start != int(np.prod(shape, dtype=np.int64)):
        raise UserError(f"{path} is no idx file of bytes, or is cut short")
    return np.frombuffer(data, np.uint8, offset=start).reshape([int(n) for n in shape])


def _dataset(name: str, images: Tensor, labels: Tensor, parts: tuple[Tensor, Tensor, Tensor]) -> Dataset:
    index = dict(zip(PARTS, parts, strict=True))
    return Dataset(
        name,
        {part: images[rows] for part, rows in index.items()},
        {part: labels[rows] for part, rows in index.items()},
        index,
        int(labels.max()) + 1,
    )
