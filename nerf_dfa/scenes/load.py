"""From a folder to a Scene: which format it is in, and who reads it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from nerf_dfa.errors import UserError
from nerf_dfa.scenes.blender import load_blender
from nerf_dfa.scenes.colmap import find_models, load_colmap
from nerf_dfa.scenes.deepvoxels import find_shapes, load_deepvoxels
from nerf_dfa.scenes.linemod import is_linemod, load_linemod
from nerf_dfa.scenes.llff import load_llff
from nerf_dfa.scenes.scene import Scene
from nerf_dfa.scenes.transforms import load_transforms


class Format(NamedTuple):
    """How scenes of one format are told and read.

    recognise: whether a folder holds such a scene.
    load: reads the folder; its keyword-only parameters are the format's options.
    options: the names of these options, so that a command line knows which flags the format reads.
    sign: what `recognise` looks for, in words.
    """

    recognise: Callable[[Path], bool]
    load: Callable[..., Scene]
    options: tuple[str, ...]
    sign: str


FORMATS: dict[str, Format] = {}


def register(name: str, recognise: Callable[[Path], bool], load: Callable[..., Scene], sign: str) -> None:
    """Adds or replaces a format. A folder that fits several is read as the one first added."""
    parameters = inspect.signature(load).parameters.values()
    options = tuple(p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY)
    FORMATS[name] = Format(recognise, load, options, sign)


# A LINEMOD scene has the files of a Blender scene, and is told by what is in them.
register("LINEMOD", is_linemod, load_linemod, "transforms_train.json with intrinsic_matrix")
register(
    "blender",
    lambda root: (root / "transforms_train.json").is_file(),
    load_blender,
    "transforms_train.json",
)
register("llff", lambda root: (root / "poses_bounds.npy").is_file(), load_llff, "poses_bounds.npy")
register("transforms", lambda root: (root / "transforms.json").is_file(), load_transforms, "transforms.json")
register("colmap", lambda root: bool(find_models(root)), load_colmap, "a COLMAP model in sparse/0")
register("deepvoxels", lambda root: bool(find_shapes(root)), load_deepvoxels, "train/SHAPE/intrinsics.txt")


def load_scene(datadir: str | Path, dataset_type: str = "auto", **options: Any) -> Scene:
    """The scene in a folder.

    Args:
        datadir: the scene's folder.
        dataset_type: a key of FORMATS, or "auto" to tell from the files in the folder.
        options: the format's own options, such as half_res or factor: see its loader.

    Raises:
        UserError: the folder is missing or of no known format, an option is not the format's, or the scene is
            damaged.
    """
    root = Path(datadir).expanduser()
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    name = recognise(root) if dataset_type == "auto" else dataset_type
    if name not in FORMATS:
        raise UserError(f"dataset_type {name}: no such format; choose auto, {', '.join(FORMATS)}")
    for option in options:
        if option not in FORMATS[name].options:
            raise UserError(f"{option}: not an option of {name} scenes, which read {', '.join(FORMATS[name].options)}")
    return FORMATS[name].load(root, **options)


def recognise(root: Path) -> str:
    """The name of the format that a folder's scene is in.

    Raises:
        UserError: it is in none of them.
    """
    for name, known in FORMATS.items():
        if known.recognise(root):
            return name
    signs = " or ".join(f"{known.sign} ({name})" for name, known in FORMATS.items())
    raise UserError(f"{root}: no scene here; looked for {signs}")
