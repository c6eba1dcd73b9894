"""From disk to a Scene: loaders for each format, and camera paths for new views."""

from nerf_dfa.scenes.load import FORMATS, Format, load_scene, register
from nerf_dfa.scenes.paths import PATHS, default_path, look_at, make_path
from nerf_dfa.scenes.scene import Scene, Split, over_background

__all__ = [
    "FORMATS",
    "PATHS",
    "Format",
    "Scene",
    "Split",
    "default_path",
    "load_scene",
    "look_at",
    "make_path",
    "over_background",
    "register",
]
