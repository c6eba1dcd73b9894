"""The demo scene: a small ray tracer that photographs a few solids on a chequered disc.

Nothing has to be downloaded to try the program: `write_demo` renders photographs with exact cameras and
depths, and stores them in the folder layout of the NeRF-synthetic (Blender) scenes.

World: z is up, lengths have no unit, everything lies within REACH of the origin and the cameras stand on the
upper hemisphere of radius CAMERA_RADIUS around it. Colours are linear light (reflectances in [0, 1]) until
`encode_srgb`. What stands there: solids.py.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image
from torch import Tensor

from nerf_dfa.errors import UserError
from nerf_dfa.scenes.solids import SOLIDS, STANDING, Solid, column, dot, unit

CAMERA_RADIUS = 4.0
CAMERA_ANGLE_X = 0.6911  # horizontal field of view in radians, that of the NeRF-synthetic scenes
REACH = 1.25
# Depth along the camera's axis of a point within REACH of the origin is CAMERA_RADIUS ± REACH.
NEAR, FAR = CAMERA_RADIUS - REACH - 0.05, CAMERA_RADIUS + REACH + 0.05
ELEVATIONS = (5.0, 80.0)  # degrees, lowest and highest camera
# Azimuth (radians) where each split's spiral starts: different, so that no two splits share a view.
SPLIT_PHASES = {"train": 0.0, "val": 1.2, "test": 5.4}

GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))
SAMPLES = 16
BAND = 10_000  # pixels traced together: bounds memory for large pictures
SURFACE_OFFSET = 1e-4  # secondary rays start this far above the surface, well over float32 rounding

LIGHT_DIRECTION = (0.62, -0.36, 0.70)
LIGHT_RADIUS = 0.13  # radius of the light's disc as seen from the scene, in radians
LIGHT_COLOUR = (1.08, 1.01, 0.90)
AMBIENT_SKY = (0.28, 0.33, 0.42)
AMBIENT_GROUND = (0.20, 0.17, 0.13)
SKY_ZENITH, SKY_HORIZON, SKY_BELOW = (0.20, 0.38, 0.75), (0.75, 0.78, 0.82), (0.16, 0.15, 0.14)


def meet(
    solid: Solid, o: Float[Tensor, "3 n"], d: Float[Tensor, "3 n"]
) -> tuple[Int[Tensor, " m"], Float[Tensor, " m"]]:
    """Rays o + t d that come near a solid: their indices, and t > 0 where each enters it or inf.

    The solid is asked about the line as seen from the point closest to its centre: only few rays pass its
    bounding sphere, and for those float32 keeps the digits that a far-off origin would cost.
    """
    o = o - column(solid.centre)
    t_closest = -dot(o, d) / dot(d, d)
    closest = o + t_closest * d
    near = (dot(closest, closest) < solid.bound**2).nonzero()[:, 0]
    t = t_closest[near] + solid.entry(closest[:, near], d[:, near])
    return near, torch.where(t > 0, t, math.inf)


def nearest(o: Float[Tensor, "3 n"], d: Float[Tensor, "3 n"]) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"]]:
    """Distance in lengths of d to the first solid along each ray (inf if none), and which of SOLIDS it is."""
    t = torch.full((d.shape[1],), math.inf)
    which = torch.zeros(d.shape[1], dtype=torch.int64)
    for index, solid in enumerate(SOLIDS):
        near, t_solid = meet(solid, o, d)
        closer = (t_solid < t[near]).nonzero()[:, 0]
        t[near[closer]] = t_solid[closer]
        which[near[closer]] = index
    return t, which


def in_shadow(o: Float[Tensor, "3 n"], towards_light: Float[Tensor, "3 n"]) -> Bool[Tensor, " n"]:
    """Whether a standing solid hides the light. The ground cannot: it is below all that faces the light."""
    hidden = torch.zeros(o.shape[1], dtype=torch.bool)
    for solid in STANDING:
        near, t = meet(solid, o, towards_light)
        hidden[near[t.isfinite()]] = True
    return hidden


def openness(points: Float[Tensor, "3 n"], normals: Float[Tensor, "3 n"]) -> Float[Tensor, " n"]:
    """Share in [0, 1] of the ambient light that the standing solids leave to a surface.

    A sphere of radius r at distance s in direction u takes max(0, n · u) r² / s² of the cosine-weighted
    hemisphere about n (exact while it is wholly above the horizon). A convex solid lies behind its own
    surface, so it takes nothing from itself.
    """
    share = torch.ones(points.shape[1])
    for solid in STANDING:
        towards = column(solid.centre) - points
        inverse = torch.rsqrt(dot(towards, towards))
        blocked = dot(normals, towards).clamp(min=0) * solid.shade_radius**2 * inverse**3
        share *= 1 - blocked.clamp(max=1)
    return share


def sky(d: Float[Tensor, "3 n"]) -> Float[Tensor, "3 n"]:
    """Colour of the surroundings in unit directions d, seen in mirrors only: photographs cut it out."""
    height = d[2].clamp(min=0).sqrt()
    above = column(SKY_HORIZON) + (column(SKY_ZENITH) - column(SKY_HORIZON)) * height
    return torch.where(d[2] > 0, above, column(SKY_BELOW))


def surface(
    points: Float[Tensor, "3 n"], which: Int[Tensor, " n"]
) -> tuple[Float[Tensor, "3 n"], Float[Tensor, "3 n"]]:
    """Outward unit normals and diffuse reflectances at points on the solids of the given indices."""
    normals, albedo = torch.empty_like(points), torch.empty_like(points)
    for index, solid in enumerate(SOLIDS):
        here = (which == index).nonzero()[:, 0]
        local = points[:, here] - column(solid.centre)
        palette = torch.tensor(solid.material.palette).T
        normals[:, here] = solid.normal(local)
        albedo[:, here] = palette[:, solid.material.pattern(local)]
    return normals, albedo


def shade(
    points: Float[Tensor, "3 n"],
    d: Float[Tensor, "3 n"],
    which: Int[Tensor, " n"],
    light: Float[Tensor, "3 n"],
    bounces: int,
) -> Float[Tensor, "3 n"]:
    """Light sent back along unit rays d from the points where they meet the solids.

    Lambert's law for a light in the unit direction given for each ray, ambient light that blends from ground
    to sky with the normal's height, and, while bounces are left, Blinn-Phong highlights and a mirror image
    weighted by Schlick's approximation of Fresnel's equations.
    """
    normals, albedo = surface(points, which)
    start = points + SURFACE_OFFSET * normals
    direct = dot(normals, light).clamp(min=0)
    facing = (direct > 0).nonzero()[:, 0]
    direct[facing] *= ~in_shadow(start[:, facing], light[:, facing])
    up = (0.5 + 0.5 * normals[2]) * openness(points, normals)
    down = 0.5 - 0.5 * normals[2]
    incoming = column(LIGHT_COLOUR) * direct + column(AMBIENT_SKY) * up + column(AMBIENT_GROUND) * down
    colour = albedo * incoming
    glossy = torch.tensor([max(solid.material.mirror) > 0 for solid in SOLIDS])[which].nonzero()[:, 0]
    if bounces > 0 and len(glossy) > 0:
        n, v, lamp, kind = normals[:, glossy], d[:, glossy], light[:, glossy], which[glossy]
        reflected = radiance(start[:, glossy], v - 2 * dot(n, v) * n, lamp, bounces - 1)[0]
        normal_incidence = torch.tensor([solid.material.mirror for solid in SOLIDS]).T[:, kind]
        fresnel = normal_incidence + (1 - normal_incidence) * (1 + dot(n, v)).clamp(0, 1) ** 5
        strength = torch.tensor([solid.material.highlight for solid in SOLIDS])[kind]
        shininess = torch.tensor([solid.material.shininess for solid in SOLIDS])[kind]
        half_way = dot(n, unit(lamp - v)).clamp(min=0)
        highlight = strength * half_way**shininess * (direct[glossy] > 0)
        colour[:, glossy] = colour[:, glossy] * (1 - fresnel) + reflected * fresnel + highlight
    return colour


def radiance(
    o: Float[Tensor, "3 n"], d: Float[Tensor, "3 n"], light: Float[Tensor, "3 n"], bounces: int
) -> tuple[Float[Tensor, "3 n"], Bool[Tensor, " n"]]:
    """Colour that arrives along rays with unit directions d, and which meet a solid; others see the sky."""
    t, which = nearest(o, d)
    hit = t.isfinite()
    found = hit.nonzero()[:, 0]
    colour = sky(d)
    points = (o + torch.where(hit, t, 0) * d)[:, found]
    colour[:, found] = shade(points, d[:, found], which[found], light[:, found], bounces)
    return colour, hit


def encode_srgb(linear: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Linear light in [0, 1] to display values in [0, 1] (IEC 61966-2-1)."""
    curve = 1.055 * linear ** (1 / 2.4) - 0.055
    return torch.where(linear <= 0.0031308, 12.92 * linear, curve)


def pixel_offsets(samples: int) -> Float[Tensor, "2 samples"]:
    """Places (x, y) in the unit square, evenly spread for any count (recurrence on the plastic number)."""
    steps = torch.tensor([[0.7548776662], [0.5698402910]], dtype=torch.float64)
    return ((0.5 + steps * torch.arange(samples)) % 1).float()


def light_directions(samples: int) -> Float[Tensor, "3 samples"]:
    """Unit directions to the light: a sunflower pattern over its disc, one for each sample of a pixel."""
    axis = unit(column(LIGHT_DIRECTION))
    across = unit(torch.linalg.cross(column((0.0, 0.0, 1.0)), axis, dim=0))
    k = torch.arange(samples)
    radius, angle = math.tan(LIGHT_RADIUS) * ((k + 0.5) / samples).sqrt(), GOLDEN_ANGLE * k
    disc = across * radius * angle.cos() + torch.linalg.cross(axis, across, dim=0) * radius * angle.sin()
    return unit(axis + disc)


def pixel_rays(
    pose: Float[Tensor, "3 4"],
    camera_angle_x: float,
    size: int,
    pixels: Int[Tensor, " n"],
    offset: Float[Tensor, "2 samples"],
) -> Float[Tensor, "3 samples n"]:
    """World directions through places in pixels (row-major indices), of depth 1 along the camera's axis."""
    focal = 0.5 * size / math.tan(0.5 * camera_angle_x)
    x = (pixels % size + offset[0, :, None] - 0.5 * size) / focal
    y = -(pixels // size + offset[1, :, None] - 0.5 * size) / focal
    axes = pose[:, :3, None, None]
    return axes[:, 0] * x + axes[:, 1] * y - axes[:, 2]


@torch.no_grad()
def render_view(
    pose: Float[Tensor, "3 4"], camera_angle_x: float, size: int, samples: int = SAMPLES
) -> tuple[UInt8[Tensor, "size size 4"], Float[Tensor, "size size"]]:
    """A square photograph of the scene.

    Args:
        pose: camera-to-world matrix [R | t], OpenGL axes.
        camera_angle_x: field of view in radians.
        size: pixels along an edge.
        samples: rays for each pixel; each takes its own direction to the light, so shadows have soft edges.

    Returns:
        rgba: straight alpha, the share of samples that meet a solid; the colour is their mean, black if none.
        depth: along the camera's axis, of the ray through the pixel's centre; 0 where it meets nothing.
    """
    offset, light = pixel_offsets(samples), light_directions(samples)
    rgba, depth = [], []
    for pixels in torch.arange(size * size).split(BAND):
        d = pixel_rays(pose, camera_angle_x, size, pixels, offset)
        o, towards_light = pose[:, 3:, None].expand_as(d), light[:, :, None].expand_as(d)
        colour, hit = radiance(o.flatten(1), unit(d.flatten(1)), towards_light.flatten(1), bounces=1)
        weight = hit.view(1, samples, -1).float()
        total = (colour.view_as(d).clamp(0, 1) * weight).sum(1)
        rgba.append(torch.cat([encode_srgb(total / weight.sum(1).clamp(min=1)), weight.mean(1)]))
        # Not made unit length: t is depth along the camera's axis.
        d = pixel_rays(pose, camera_angle_x, size, pixels, torch.full((2, 1), 0.5))[:, 0]
        t, _ = nearest(pose[:, 3:].expand_as(d), d)
        depth.append(torch.where(t.isfinite(), t, 0))
    image = (torch.cat(rgba, 1).T * 255 + 0.5).to(torch.uint8)
    return image.view(size, size, 4), torch.cat(depth).view(size, size)


def look_at_origin(position: Float[Tensor, "3 n"]) -> Float[Tensor, "n 3 4"]:
    """Camera-to-world matrices of upright cameras, none of them on the z axis, that look at the origin."""
    backwards = unit(position)
    up = column((0.0, 0.0, 1.0)).expand_as(position)
    right = unit(torch.linalg.cross(up, backwards, dim=0))
    axes = [right, torch.linalg.cross(backwards, right, dim=0), backwards, position]
    return torch.stack(axes, -1).transpose(0, 1)


def spiral_poses(count: int, phase: float) -> Float[Tensor, "count 3 4"]:
    """Cameras spread evenly over the hemisphere between ELEVATIONS: a golden-angle spiral from phase."""
    low, high = (math.sin(math.radians(degrees)) for degrees in ELEVATIONS)
    k = torch.arange(count, dtype=torch.float64)
    height, azimuth = low + (high - low) * (k + 0.5) / count, phase + GOLDEN_ANGLE * k
    across = (1 - height**2).sqrt()
    place = torch.stack([across * azimuth.cos(), across * azimuth.sin(), height])
    return look_at_origin(CAMERA_RADIUS * place.float())


def write_split(root: Path, split: str, count: int, image_size: int) -> None:
    """Render one split into ROOT/SPLIT; its transforms file comes last, as the mark that it is complete."""
    (root / split).mkdir()
    frames = []
    for index, pose in enumerate(spiral_poses(count, SPLIT_PHASES[split])):
        rgba, depth = render_view(pose, CAMERA_ANGLE_X, image_size)
        Image.fromarray(rgba.numpy()).save(root / split / f"r_{index}.png")
        if split != "train":
            np.save(root / split / f"r_{index}_depth.npy", depth.numpy())
        matrix = [*pose.tolist(), [0.0, 0.0, 0.0, 1.0]]
        frames.append({"file_path": f"./{split}/r_{index}", "transform_matrix": matrix})
    transforms = {"camera_angle_x": CAMERA_ANGLE_X, "near": NEAR, "far": FAR, "frames": frames}
    (root / f"transforms_{split}.json").write_text(json.dumps(transforms, indent=1), encoding="utf-8")


def is_complete(root: Path) -> bool:
    """Whether the folder has the transforms of all three splits."""
    return all((root / f"transforms_{split}.json").is_file() for split in SPLIT_PHASES)


@contextmanager
def one_thread() -> Iterator[None]:
    """Keeps torch to one thread: operations this small gain little by a second, and lose much where it has to wait."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def write_demo(
    root: Path | str, image_size: int = 100, train_views: int = 60, val_views: int = 5, test_views: int = 10
) -> Path:
    """Render the demo scene into the folder root, in the layout of NeRF-synthetic, and return root.

    The pictures are made in a hidden folder beside root, which is renamed at the end: root is never half
    made. A complete root is left as it is, whatever its sizes and counts.

    Raises:
        UserError: a size or count below 1; root has other contents; its parent is missing or not writable.
    """
    root = Path(root)
    if is_complete(root):
        return root
    counts = {"train": train_views, "val": val_views, "test": test_views}
    for name, value in {"image_size": image_size, **{f"{k}_views": v for k, v in counts.items()}}.items():
        if value < 1:
            raise UserError(f"demo scene: {name} must be at least 1, not {value}")
    try:
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise UserError(f"{root} exists and is not a demo scene: choose another folder, or --dataset_type auto")
        with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.absolute().parent) as temporary:
            # A folder of its own inside: the temporary one is private to the user, and stays so when renamed.
            made = Path(temporary) / "scene"
            made.mkdir()
            with one_thread():
                for split, count in counts.items():
                    write_split(made, split, count, image_size)
            # Another process may have finished the same scene meanwhile.
            if not is_complete(root):
                if root.is_dir():
                    root.rmdir()  # an empty one: some systems do not rename onto a folder
                made.rename(root)
    except OSError as error:
        raise UserError(f"cannot write the demo scene to {root}: {error.strerror or error}") from error
    return root
