"""From rays to pixels."""

from nerf_dfa.rendering.cameras import Cameras
from nerf_dfa.rendering.chunks import Chunks
from nerf_dfa.rendering.occupancy import OccupancyGrid
from nerf_dfa.rendering.rays import Rays, camera_rays, image_rays
from nerf_dfa.rendering.renderer import (
    RadianceModel,
    RenderedImage,
    render_image,
    render_rays,
)
from nerf_dfa.rendering.settings import RenderSettings

__all__ = [
    "Cameras",
    "Chunks",
    "OccupancyGrid",
    "RadianceModel",
    "Rays",
    "RenderSettings",
    "RenderedImage",
    "camera_rays",
    "image_rays",
    "render_image",
    "render_rays",
]
