"""What a scene is: position and direction to density and colour."""

from nerf_dfa.fields.field import DensityActivation, Field
from nerf_dfa.fields.grid import GridField
from nerf_dfa.fields.grids import level_resolutions
from nerf_dfa.fields.mlp import MLPField

__all__ = ["DensityActivation", "Field", "GridField", "MLPField", "level_resolutions"]
