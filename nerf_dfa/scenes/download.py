"""Public data sets to a folder: python -m nerf_dfa.scenes.download NAME [--into scenes]"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from nerf_dfa.errors import UserError
from nerf_dfa.files import write_text
from nerf_dfa.scenes.archives import unpack
from nerf_dfa.scenes.fetch import fetch, mismatch

# Of the tiny lego's 106 views NeRF's example trains on these first ones.
TINY_TRAIN = 100


class Collection(NamedTuple):
    """A data set that can be downloaded.

    addresses: where the same file is found, its authors' place first.
    sha256, size: checksum and bytes of that file, None where not published.
    scenes: its scenes; "" where the data set is itself one.
    sign: the file that each scene has when it is whole.
    contents, licence: for people.
    """

    addresses: tuple[str, ...]
    sha256: str | None
    size: int | None
    scenes: tuple[str, ...]
    sign: str
    contents: str
    licence: str


_DRIVE = "https://drive.usercontent.google.com/download?export=download&confirm=t&id="
_MIRROR = "https://github.com/yxlao/nerfmirror/releases/download/20220618/"

# The authors' files on Google Drive are those that nerf-pytorch's and IBRNet's scripts name; yxlao/nerfmirror holds
# copies. Checksums as in nerfmirror and in NerfBaselines' loaders, which agree.
COLLECTIONS: dict[str, Collection] = {
    "nerf_synthetic": Collection(
        addresses=(_DRIVE + "18JxhpWD-4ZmuFKLzKlAw-w5PpzZxXOcG", _MIRROR + "nerf_synthetic.zip"),
        sha256="f01fd1b4ab045b0d453917346f26f898657bb5bec4834b95fdad1f361826e45e",
        size=1_679_356_967,
        scenes=("chair", "drums", "ficus", "hotdog", "lego", "materials", "mic", "ship"),
        sign="transforms_train.json",
        contents="8 rendered objects, 100 train, 100 val and 200 test views each, 800x800 RGBA",
        licence="after models of blendswap.com: chair, ficus, hotdog, materials, mic CC0; drums CC-BY; ship CC-BY-SA; "
        "lego CC-BY-NC",
    ),
    "nerf_llff_data": Collection(
        addresses=(_DRIVE + "16VnMcF1KJYxN9QId6TClMsZRahHNMW5g", _MIRROR + "nerf_llff_data.zip"),
        sha256="5794b432feaf4f25bcd603addc6ad0270cec588fed6a364b7952001f07466635",
        size=None,
        scenes=("fern", "flower", "fortress", "horns", "leaves", "orchids", "room", "trex"),
        sign="poses_bounds.npy",
        contents="8 places photographed from one side, 20 to 62 views each, 4032x3024 and smaller copies",
        licence="none stated; published by the authors of NeRF and LLFF for research",
    ),
    "tiny_nerf": Collection(
        addresses=("http://cseweb.ucsd.edu/~viscomp/projects/LF/papers/ECCV20/nerf/tiny_nerf_data.npz",),
        sha256=None,
        size=12_727_482,
        scenes=("",),
        sign="transforms_train.json",
        contents="lego, 100 train and 6 test views, 100x100 RGB on black",
        licence="CC-BY-NC, as the lego of nerf_synthetic",
    ),
}


def download(name: str, into: str | Path = "scenes", archive: str | Path | None = None) -> Path:
    """A data set in the folder into / name, downloaded and unpacked unless it is there already.

    A download that breaks is continued by the next call. The data set is unpacked in a hidden folder beside its
    place and moved there when it is whole.

    Args:
        name: a key of COLLECTIONS.
        into: the folder that the data set's folder lies in; made where it is missing.
        archive: the data set's file, where it was downloaded by other means; it is checked, and kept.

    Raises:
        UserError: something else is in that place; the download or unpacking failed; the disk is full.
    """
    if name not in COLLECTIONS:
        raise UserError(f"{name}: no such data set; choose one of {', '.join(COLLECTIONS)}")
    collection, target = COLLECTIONS[name], Path(into).expanduser() / name
    if is_complete(target, collection):
        return target
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} exists and is not the whole of {name}: move it away or choose another --into")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if archive is not None:
            source = Path(archive).expanduser()
            wrong = mismatch(source, collection.sha256, collection.size) if source.is_file() else "no such file"
            if wrong is not None:
                raise UserError(f"{source}: {wrong}")
        else:
            source = target.with_name(f"{name}.download")
            fetch(collection.addresses, source, sha256=collection.sha256, size=collection.size)
        try:
            _install(source, target, collection)
        except UserError:
            if archive is None:
                source.unlink()  # or the next call would find the same
            raise
        if archive is None:
            source.unlink()
    except OSError as error:
        raise UserError(
            f"{error.filename or target}: cannot be written ({error.strerror or error}); the same command continues"
        ) from error
    return target


def is_complete(folder: Path, collection: Collection) -> bool:
    """Whether all scenes of the data set are in the folder."""
    return all((folder / scene / collection.sign).is_file() for scene in collection.scenes)


def _install(source: Path, target: Path, collection: Collection) -> None:
    """Unpacks `source` and moves it to `target` when it is whole."""
    unfinished = target.with_name(f".{target.name}.unpacking")
    shutil.rmtree(unfinished, ignore_errors=True)  # what a killed process left
    unfinished.mkdir()
    try:
        unpack(source, unfinished)
        if (unfinished / "images.npy").is_file():
            made = unfinished / target.name
            write_tiny(unfinished, made)
        else:
            # The archives hold one folder of the data set's name.
            made = unfinished / target.name if (unfinished / target.name).is_dir() else unfinished
        lacking = [scene for scene in collection.scenes if not (made / scene / collection.sign).is_file()]
        if lacking:
            raise UserError(f"{source}: without {', '.join(f'{scene}/{collection.sign}' for scene in lacking)}")
        if target.is_dir():
            target.rmdir()  # an empty one: some systems do not rename onto a folder
        made.rename(target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def write_tiny(arrays: Path, root: Path) -> None:
    """The tiny lego as a scene in Blender's format.

    Args:
        arrays: a folder with images.npy, (n, h, w, 3) in [0, 1]; poses.npy, (n, 4, 4) OpenGL camera-to-world; and
            focal.npy, the focal length in pixels.
        root: the scene's folder, which is made; val and test are the same views, those after TINY_TRAIN.

    Raises:
        UserError: an array is missing or is not of this kind.
    """
    images, poses, focal = (_read_array(arrays / f"{name}.npy") for name in ("images", "poses", "focal"))
    count = len(images) if images.ndim == 4 else 0
    if count <= TINY_TRAIN or images.shape[3] != 3 or poses.shape != (count, 4, 4) or focal.size != 1:
        raise UserError(
            f"the tiny lego has images {images.shape}, poses {poses.shape} and focal {focal.shape}; "
            f"expected (n, h, w, 3), (n, 4, 4) and one number, n over {TINY_TRAIN}"
        )
    if not (images.min() >= -1e-3 and images.max() <= 1 + 1e-3 and np.isfinite(poses).all() and 0 < focal < np.inf):
        raise UserError("the tiny lego has colours outside 0 to 1, or poses or a focal length that are no numbers")
    angle = 2 * math.atan(0.5 * images.shape[2] / float(focal))
    for split, views in (("train", range(TINY_TRAIN)), ("test", range(TINY_TRAIN, count))):
        (root / split).mkdir(parents=True)
        frames = []
        for number, view in enumerate(views):
            pixels = np.round(images[view].clip(0, 1) * 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / split / f"r_{number}.png")
            frames.append({"file_path": f"./{split}/r_{number}", "transform_matrix": poses[view].tolist()})
        text = json.dumps({"camera_angle_x": angle, "frames": frames}, indent=1)
        for name in ("train",) if split == "train" else ("val", "test"):
            write_text(root / f"transforms_{name}.json", text)


def _read_array(file: Path) -> np.ndarray:
    try:
        array = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"the tiny lego's {file.name} is missing or no array ({error})") from error
    if array.dtype.kind not in "fiu":
        raise UserError(f"the tiny lego's {file.name} is of {array.dtype}; expected numbers")
    return array


def make_parser() -> argparse.ArgumentParser:
    known = "\n".join(
        f"  {name}: {c.contents}"
        + (f"; {c.size / 1e6:,.0f} MB to download" if c.size is not None else "")
        + f"\n    licence: {c.licence}"
        for name, c in COLLECTIONS.items()
    )
    parser = argparse.ArgumentParser(
        prog="python -m nerf_dfa.scenes.download",
        description="Download a public data set; a download that broke is continued.",
        epilog=f"data sets:\n{known}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=list(COLLECTIONS), help="the data set")
    parser.add_argument("--into", default="scenes", help="folder to put the data set's folder in (default: scenes)")
    parser.add_argument("--archive", help="unpack this file, downloaded by other means; it is checked and kept")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    options = make_parser().parse_args(argv)
    try:
        target = Path(options.into).expanduser() / options.name
        there = is_complete(target, COLLECTIONS[options.name])
        target = download(options.name, options.into, options.archive)
    except UserError as error:
        print(f"download: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command continues", file=sys.stderr)
        return 130
    scenes = ", ".join(str(target / scene) for scene in COLLECTIONS[options.name].scenes)
    print(f"{'already there' if there else 'done'}: {scenes}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
