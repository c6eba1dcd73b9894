"""Solids and rays written a second time, in another way, for tests of the demo scene."""

import math

import numpy as np
import torch

from nerf_dfa.scenes.procedural import (
    meet,
)
from nerf_dfa.scenes.solids import Box, Frustum, Material, Sphere

MATT = Material(((0.5, 0.5, 0.5),))
SHAPES = {
    "sphere": Sphere((0.3, -0.2, 0.1), MATT, radius=0.4),
    "box": Box((0.3, -0.2, 0.1), MATT, half=(0.3, 0.2, 0.4), turn=0.7),
    "cylinder": Frustum((0.3, -0.2, 0.1), MATT, bottom=0.3, top=0.3, half=0.25),
    "cone": Frustum((0.3, -0.2, 0.1), MATT, bottom=0.4, top=0.0, half=0.4),
    "bucket": Frustum((0.3, -0.2, 0.1), MATT, bottom=0.2, top=0.35, half=0.3),
}


def outside(solid, points):
    """Negative inside a solid, positive outside, zero on its surface; points [..., 3] in the world."""
    x, y, z = np.moveaxis(np.asarray(points, dtype=np.float64) - np.array(solid.centre), -1, 0)
    if isinstance(solid, Sphere):
        return np.sqrt(x * x + y * y + z * z) - solid.radius
    if isinstance(solid, Box):
        c, s = math.cos(solid.turn), math.sin(solid.turn)
        along, across = x * c + y * s, y * c - x * s
        return np.max([abs(along) - solid.half[0], abs(across) - solid.half[1], abs(z) - solid.half[2]], axis=0)
    radius = solid.bottom + (solid.top - solid.bottom) * (z + solid.half) / (2 * solid.half)
    return np.maximum(abs(z) - solid.half, np.hypot(x, y) - radius)


def march(solids, o, d, length, steps):
    """First t in [0, length] at which o + t d ([n, 3]) is inside a solid, else inf: steps, then bisection."""

    def distance(t):
        points = o[:, None] + t[..., None] * d[:, None]
        return np.min([outside(solid, points) for solid in solids], axis=0)

    t = np.broadcast_to(np.linspace(0, length, steps), (len(d), steps))
    inside = distance(t) < 0
    first = inside.argmax(1)
    high = np.take_along_axis(t, first[:, None], 1)
    low = high - length / (steps - 1)
    for _ in range(30):
        middle = (low + high) / 2
        within = distance(middle) < 0
        low, high = np.where(within, low, middle), np.where(within, middle, high)
    return np.where(inside.any(1), high[:, 0], np.inf)


def random_rays(count, target, spread, seed):
    """Rays of various lengths from 1.5 to 4 away towards points near target, as float32 [3, n]."""
    rng = np.random.default_rng(seed)
    away = rng.normal(size=(count, 3))
    away *= rng.uniform(1.5, 4, (count, 1)) / np.linalg.norm(away, axis=1, keepdims=True)
    aim = np.array(target) + rng.uniform(-spread, spread, (count, 3))
    o, d = np.array(target) + away, (aim - np.array(target) - away) * rng.uniform(0.3, 1.5, (count, 1))
    return torch.tensor(o.T, dtype=torch.float32), torch.tensor(d.T, dtype=torch.float32)


def entries(solid, o, d):
    """`meet` for every ray."""
    t = torch.full((o.shape[1],), math.inf)
    near, found = meet(solid, o, d)
    t[near] = found
    return t
