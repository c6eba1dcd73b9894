"""The solids of the demo scene: their shapes, what they are made of, and where they stand.

Vectors are stored as rows of "3 n" tensors, so that x, y and z are contiguous: that is what makes elementwise
arithmetic fast on a CPU. All solids are convex and no ray starts inside one, so a ray meets a solid first where it
enters it, and entries are all that has to be computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

Triple = tuple[float, float, float]  # a colour, a place or a size


def dot(a: Float[Tensor, "3 n"], b: Float[Tensor, "3 n"]) -> Float[Tensor, " n"]:
    """Inner products of the columns of a and b."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def unit(a: Float[Tensor, "3 n"]) -> Float[Tensor, "3 n"]:
    """The columns of a, scaled to length 1."""
    return a * torch.rsqrt(dot(a, a))


def column(values: Triple) -> Float[Tensor, "3 1"]:
    """Three numbers as a vector that broadcasts over rays."""
    return torch.tensor(values, dtype=torch.float32)[:, None]


def plain(points: Float[Tensor, "3 n"]) -> Int[Tensor, " n"]:
    """One colour all over."""
    return torch.zeros(points.shape[1], dtype=torch.int64)


def stripes(points: Float[Tensor, "3 n"]) -> Int[Tensor, " n"]:
    """Horizontal bands 0.1 high in colours 0 and 1."""
    return torch.floor(points[2] / 0.1 + 0.5).long() % 2


def checks(points: Float[Tensor, "3 n"]) -> Int[Tensor, " n"]:
    """Square tiles of side 0.26 in colours 0 and 1 where z > 0 and within 1.03 of the axis, 2 elsewhere."""
    tiles = (torch.floor(points[0] / 0.26) + torch.floor(points[1] / 0.26)).long() % 2
    inside = (points[0] ** 2 + points[1] ** 2 < 1.03**2) & (points[2] > 0)
    return torch.where(inside, tiles, 2)


@dataclass(frozen=True)
class Material:
    """How a surface answers to light.

    palette: diffuse reflectances; pattern gives, for points about the solid's centre, which one is where.
    mirror: reflectance of the polish at normal incidence; black for a matt surface.
    highlight, shininess: strength and exponent of the Blinn-Phong highlight.
    """

    palette: tuple[Triple, ...]
    pattern: Callable[[Tensor], Tensor] = plain
    mirror: Triple = (0.0, 0.0, 0.0)
    highlight: float = 0.0
    shininess: float = 1.0


# The solids are convex and upright. What they have in common:
#   centre, material;
#   bound: radius of a sphere around the centre that contains the solid;
#   shade_radius: radius of the sphere that stands for it where it takes ambient light from others;
#   entry(o, d): smallest t, of either sign, at which the line o + t d is inside; inf if it never is;
#   normal(points): outward unit normals at points of the surface.
# Their methods take points relative to the centre.


@dataclass(frozen=True)
class Sphere:
    centre: Triple
    material: Material
    radius: float

    @property
    def bound(self) -> float:
        return self.radius

    shade_radius = bound

    def entry(self, o: Float[Tensor, "3 n"], d: Float[Tensor, "3 n"]) -> Float[Tensor, " n"]:
        dd, od = dot(d, d), dot(o, d)
        discriminant = od * od - dd * (dot(o, o) - self.radius**2)
        return torch.where(discriminant > 0, -(od + discriminant.clamp(min=0).sqrt()) / dd, math.inf)

    def normal(self, points: Float[Tensor, "3 n"]) -> Float[Tensor, "3 n"]:
        return points / self.radius


@dataclass(frozen=True)
class Box:
    """half: half the edge lengths; turn: rotation about the vertical, in radians, counter-clockwise."""

    centre: Triple
    material: Material
    half: Triple
    turn: float

    @property
    def bound(self) -> float:
        return math.hypot(*self.half)

    @property
    def shade_radius(self) -> float:
        return sum(self.half) / 3

    def rotation(self) -> Float[Tensor, "3 3"]:
        """World to box axes."""
        c, s = math.cos(self.turn), math.sin(self.turn)
        return torch.tensor([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]])

    def entry(self, o: Float[Tensor, "3 n"], d: Float[Tensor, "3 n"]) -> Float[Tensor, " n"]:
        o, d, half = self.rotation() @ o, self.rotation() @ d, column(self.half)
        one, other = (-half - o) / d, (half - o) / d
        enter, leave = torch.minimum(one, other).amax(0), torch.maximum(one, other).amin(0)
        return torch.where(enter < leave, enter, math.inf)

    def normal(self, points: Float[Tensor, "3 n"]) -> Float[Tensor, "3 n"]:
        local = self.rotation() @ points
        face = (local.abs() - column(self.half)).argmax(0)
        axes = torch.eye(3)[:, face] * local.sign()
        return self.rotation().T @ axes


@dataclass(frozen=True)
class Frustum:
    """An upright cylinder or (truncated) cone: radii of the bottom and top discs, half the height."""

    centre: Triple
    material: Material
    bottom: float
    top: float
    half: float

    @property
    def bound(self) -> float:
        return math.hypot(max(self.bottom, self.top), self.half)

    @property
    def shade_radius(self) -> float:
        return ((self.bottom + self.top) / 2 + self.half) / 2

    @property
    def slope(self) -> float:
        """Change of the radius per unit of height."""
        return (self.top - self.bottom) / (2 * self.half)

    def entry(self, o: Float[Tensor, "3 n"], d: Float[Tensor, "3 n"]) -> Float[Tensor, " n"]:
        # The disc that faces the ray: the top one for a ray that goes down.
        t_cap = (-d[2].sign() * self.half - o[2]) / d[2]
        radius = torch.where(d[2] < 0, self.top, self.bottom)
        x, y = o[0] + t_cap * d[0], o[1] + t_cap * d[1]
        first = torch.where(x * x + y * y <= radius * radius, t_cap, math.inf)
        # The side: x² + y² = r², where the radius r + t dr is linear along the ray.
        r, dr = (self.bottom + self.top) / 2 + self.slope * o[2], self.slope * d[2]
        a = d[0] ** 2 + d[1] ** 2 - dr * dr
        b = o[0] * d[0] + o[1] * d[1] - r * dr
        c = o[0] ** 2 + o[1] ** 2 - r * r
        root = (b * b - a * c).sqrt()  # nan, which fails every comparison, where the line misses
        # Both roots of a t² + 2 b t + c without cancellation, also where a vanishes (ray along the side).
        q = -(b + torch.where(b < 0, -root, root))
        for t in (q / a, c / q):
            # The margin keeps the seam between disc and side closed against rounding.
            on_side = (o[2] + t * d[2]).abs() <= self.half + 1e-6
            first = torch.where(on_side, torch.minimum(first, t), first)
        return first

    def normal(self, points: Float[Tensor, "3 n"]) -> Float[Tensor, "3 n"]:
        x, y, z = points
        across = torch.hypot(x, y).clamp(min=1e-12)
        cosine = 1 / math.hypot(1, self.slope)
        outside = (across - (self.bottom + self.top) / 2 - self.slope * z) * cosine
        side = torch.stack([x / across, y / across, torch.full_like(z, -self.slope)]) * cosine
        cap = torch.stack([torch.zeros_like(z), torch.zeros_like(z), z.sign()])
        return torch.where(outside > z.abs() - self.half, side, cap)


Solid = Sphere | Box | Frustum

GROUND_Z = -0.38  # height of the floor that the others stand on
GROUND = Frustum(
    (0.0, 0.0, GROUND_Z - 0.04),
    Material(((0.80, 0.74, 0.60), (0.05, 0.14, 0.16), (0.30, 0.17, 0.09)), checks),
    bottom=1.12,
    top=1.12,
    half=0.04,
)
STANDING: tuple[Solid, ...] = (
    Sphere((0.22, -0.68, GROUND_Z + 0.28), Material(((0.70, 0.02, 0.02),)), radius=0.28),
    Sphere(
        (-0.42, -0.28, GROUND_Z + 0.40),
        Material(((0.02, 0.09, 0.60),), mirror=(0.08, 0.08, 0.08), highlight=0.9, shininess=90.0),
        radius=0.40,
    ),
    Box((0.50, 0.12, GROUND_Z + 0.30), Material(((0.03, 0.45, 0.07),)), half=(0.26, 0.20, 0.30), turn=0.5),
    Sphere(
        (0.50, 0.12, GROUND_Z + 0.60 + 0.19),
        Material(((0.80, 0.37, 0.01),), mirror=(0.42, 0.24, 0.03), highlight=0.7, shininess=60.0),
        radius=0.19,
    ),
    Frustum((-0.12, 0.58, GROUND_Z + 0.45), Material(((0.88, 0.24, 0.01),)), bottom=0.32, top=0.0, half=0.45),
    Frustum(
        (-0.78, 0.30, GROUND_Z + 0.20),
        Material(((0.42, 0.05, 0.50), (0.85, 0.80, 0.85)), stripes),
        bottom=0.16,
        top=0.16,
        half=0.20,
    ),
)
SOLIDS: tuple[Solid, ...] = (GROUND, *STANDING)
