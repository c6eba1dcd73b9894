"""Where a capture lies in the scene's world: its centre, its upward direction, its size and its depths.

The programs that find camera poses from photographs leave origin, turn and scale to chance. A scene is easier to
learn and to show if what was photographed lies about the origin, upright, at a size that does not depend on the
file's units. Everything is computed in float64.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from nerf_dfa.scenes.paths import average_pose, nearest_to_axes

Facing = Literal["forward", "around"]

# Length of the mean of the unit viewing directions: 1 where all are parallel, (1 + cos a) / 2 for a cone of half
# angle a filled evenly, 0.5 for a dome, 0 for a ring. Cameras that turn outwards from each other (a panorama of one
# wall) may spread 53 degrees to each side; those whose axes meet in front of them are going round something beyond
# 26 degrees.
FORWARD_MEAN_DIVERGING = 0.8
FORWARD_MEAN_CONVERGING = 0.95
# Axes define the point where they meet if they differ by more than about 2 degrees from each other.
LEAST_CONVERGENCE = 1e-3
# Least length of the mean of the cameras' unit up axes that still is a direction.
LEAST_UP = 0.05
# The cameras' right axes define the direction perpendicular to them if they spread in their common plane by at least
# this much (mean square; 10 degrees to each side of their mean), and this many times as much as out of it.
LEAST_TURN = 0.01
LEAST_FLATNESS = 4.0
# Sparse points hold mistakes of the reconstruction: depths between these quantiles count, with a margin.
DEPTH_QUANTILES = (0.005, 0.995)
DEPTH_MARGIN = 1.1
# Points within this cosine of a camera's axis (45 degrees) stand for what it sees.
LEAST_COSINE = math.sqrt(0.5)
MOST_DEPTHS = 2_000_000
# Where there are no points, an object about the origin reaches half way to the cameras, as in the synthetic scenes
# of NeRF: cameras at 4.03, bounds 2 and 6.
OBJECT_REACH = 0.5
# How far from the origin the cameras around a scene are placed, as in the synthetic scenes. Densities begin and learn
# per unit of length: at a quarter of this distance the demo lost 5 dB, at four times as much nothing.
CAMERA_DISTANCE = 4.0
# A forward-facing capture without points: its scene begins and ends at these multiples of the depth at which the
# cameras' axes meet. (Measured on fern: 0.53 and 2.5.)
FORWARD_REACH = (0.4, 4.0)


class World(NamedTuple):
    """A similarity from a file's world to the scene's: x_scene = scale * rotation @ (x_file - origin)."""

    rotation: Float[Tensor, "3 3"]
    origin: Float[Tensor, " 3"]
    scale: float

    def points(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """Points of the file's world in the scene's, in float64."""
        return self.scale * (points.double() - self.origin) @ self.rotation.T

    def poses(self, poses: Float[Tensor, "n 3 4"]) -> Float[Tensor, "n 3 4"]:
        """The same cameras in the scene's world, in float64; they stay rotations, only their centres are scaled."""
        axes = self.rotation @ poses[:, :, :3].double()
        return torch.cat([axes, self.points(poses[:, :, 3])[:, :, None]], dim=-1)


def unchanged() -> World:
    """The world of the file itself."""
    return World(torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64), 1.0)


class Directions(NamedTuple):
    """What `facing` judges by. length: of the mean viewing direction, in [0, 1]; least: from which on it is one way;
    converging: whether the point nearest to all optical axes lies in front of most cameras."""

    length: float
    least: float
    converging: bool


def directions(poses: Float[Tensor, "n 3 4"]) -> Directions:
    """How much the cameras look one way."""
    poses = poses.double()
    ahead = _depths(poses, nearest_to_axes(poses)[None])[:, 0]
    converging = bool((ahead > 0).double().mean() > 0.5)
    length = normalize(poses[:, :, 2], dim=1).mean(0).norm().item()
    return Directions(length, FORWARD_MEAN_CONVERGING if converging else FORWARD_MEAN_DIVERGING, converging)


def facing(poses: Float[Tensor, "n 3 4"]) -> Facing:
    """Whether the cameras look one way ("forward") or at a common centre, or all ways ("around").

    The measure is the length of the cameras' mean viewing direction. It has to be at least
    FORWARD_MEAN_CONVERGING for "forward" where the point nearest to all optical axes lies in front of most cameras,
    and FORWARD_MEAN_DIVERGING where it lies behind them.
    """
    found = directions(poses)
    return "forward" if found.length >= found.least else "around"


def centred(poses: Float[Tensor, "n 3 4"]) -> World:
    """The world in which a capture from all around is upright, about the origin and of one size.

    Up (`upward`) becomes +z by the least turn; the point nearest to the optical axes becomes the origin; and the root
    mean square distance of the cameras from it becomes CAMERA_DISTANCE, so that bounds, densities, grids and encodings
    that suit one capture suit the next, whatever its units and however many photographs it has.

    Raises:
        ValueError: the axes are parallel, the cameras all stand at one point, or nothing tells which way is up.
    """
    poses = poses.double()
    z = poses[:, :, 2]
    if _convergence(z) < LEAST_CONVERGENCE:
        raise ValueError("the cameras' axes are parallel, so that nothing tells where the centre is")
    origin = nearest_to_axes(poses)
    offsets = poses[:, :, 3] - origin
    radius = offsets.square().sum(-1).mean().sqrt().item()
    if radius <= 1e-6 * poses[:, :, 3].abs().max().item():
        raise ValueError("the cameras all stand at one point, so that nothing tells the scene's size")
    return World(_turn_upright(upward(poses)), origin, CAMERA_DISTANCE / radius)


def upward(poses: Float[Tensor, "n 3 4"]) -> Float[Tensor, " 3"]:
    """The unit vector that is up for cameras held level, in float64.

    That is the direction most nearly perpendicular to all their right axes, the one of least sum of (r . up)^2, on the
    side of their up axes: a level camera may look up or down, and its up axis leans with it, more of them to one side
    than to the other. Where the right axes hardly turn, or turn all ways, as of cameras that were not held level, it
    is the mean of the up axes.

    Raises:
        ValueError: the up axes cancel out.
    """
    poses = poses.double()
    right, up = poses[:, :, 0], poses[:, :, 1].mean(0)
    spread, axes = torch.linalg.eigh(right.T @ right / len(right))  # in ascending order
    if spread[1] >= max(LEAST_TURN, LEAST_FLATNESS * spread[0].item()):
        up = (axes[:, 0] @ up) * axes[:, 0]
    if up.norm() < LEAST_UP:
        raise ValueError("the cameras' up axes point all ways and have no mean")
    return normalize(up, dim=0)


def fronted(poses: Float[Tensor, "n 3 4"]) -> World:
    """The world in which the average of forward-facing cameras stands at the origin and looks along -z, +y up.

    Its unit is the depth at which the cameras' axes meet; where they do not, the cameras' root mean square distance
    from their mean; where they stand at one point, the file's.

    Raises:
        ValueError: the cameras look all ways, or on average along their up axes.
    """
    poses = poses.double()
    average = average_pose(poses)
    spread = (poses[:, :, 3] - average[:, 3]).square().sum(-1).mean().sqrt().item()
    size = _meeting_depth(poses) or spread or 1.0
    return World(average[:, :3].T, average[:, 3], 1 / size)


def placed(poses: Float[Tensor, "n 3 4"]) -> World:
    """`fronted` for cameras that look one way and `centred` for others.

    Raises:
        ValueError: see there.
    """
    return fronted(poses) if facing(poses) == "forward" else centred(poses)


def depth_bounds(poses: Float[Tensor, "n 3 4"], points: Float[Tensor, "m 3"] | None = None) -> tuple[float, float]:
    """Near and far of a scene, in depth along the cameras' axes and in the units of the poses.

    With sparse points, robust quantiles of the depths of those that lie in front of a camera, within 45 degrees of
    its axis, and a margin. Without, what an object about the origin takes up (OBJECT_REACH), or for forward-facing
    cameras FORWARD_REACH times the depth at which their axes meet.

    Raises:
        ValueError: no point lies in front of a camera, or the cameras do not tell where the scene is.
    """
    poses = poses.double()
    if points is not None:
        return _bounds_of_points(poses, points.double())
    if facing(poses) == "forward":
        depth = _meeting_depth(poses)
        if depth is None:
            raise ValueError("the cameras' axes do not meet, so that nothing tells how far away the scene is")
        return FORWARD_REACH[0] * depth, FORWARD_REACH[1] * depth
    if _depths(poses, poses.new_zeros(1, 3)).quantile(0.5) <= 0:
        raise ValueError("the cameras look outwards, so that nothing tells how far away the scene is")
    distances = poses[:, :, 3].norm(dim=1)
    near, far = (1 - OBJECT_REACH) * distances.min().item(), (1 + OBJECT_REACH) * distances.max().item()
    if not near > 0:
        raise ValueError("a camera stands in the middle of the scene, so that nothing tells how far away that is")
    return near, far


def _bounds_of_points(poses: Float[Tensor, "n 3 4"], points: Float[Tensor, "m 3"]) -> tuple[float, float]:
    stride = max(1, math.ceil(len(poses) * len(points) / MOST_DEPTHS))
    points = points[::stride]
    depths = _depths(poses, points)
    distances = torch.cdist(poses[:, :, 3], points)
    seen = depths[(depths > 0) & (depths >= LEAST_COSINE * distances)]
    if not len(seen):
        raise ValueError("none of the points lies in front of a camera")
    low, high = seen.quantile(seen.new_tensor(DEPTH_QUANTILES)).tolist()
    return low / DEPTH_MARGIN, high * DEPTH_MARGIN


def _depths(poses: Float[Tensor, "n 3 4"], points: Float[Tensor, "m 3"]) -> Float[Tensor, "n m"]:
    """Depth of each point along each camera's axis; negative behind it."""
    z = poses[:, :, 2]
    return (z * poses[:, :, 3]).sum(-1, keepdim=True) - z @ points.T


def _convergence(z: Float[Tensor, "n 3"]) -> float:
    """The least mean square distance per unit length that a point can move from the axes: 0 where they are parallel."""
    projections = torch.eye(3, dtype=z.dtype) - z[:, :, None] * z[:, None, :]
    return torch.linalg.eigvalsh(projections.mean(0))[0].item()


def _meeting_depth(poses: Float[Tensor, "n 3 4"]) -> float | None:
    """Median depth of the point nearest to all axes; None where they are parallel or meet behind the cameras."""
    if _convergence(poses[:, :, 2]) < LEAST_CONVERGENCE:
        return None
    depth = _depths(poses, nearest_to_axes(poses)[None]).quantile(0.5).item()
    return depth if depth > 0 else None


def _turn_upright(up: Float[Tensor, " 3"]) -> Float[Tensor, "3 3"]:
    """The rotation by the least angle that takes the unit vector `up` to +z."""
    if up[2] < 0:  # first half a turn about x, because the formula below fails for up = -z
        flip = torch.diag(up.new_tensor([1.0, -1.0, -1.0]))
        return _turn_upright(flip @ up) @ flip
    x, y, z = up.tolist()
    # I + [v] + [v]^2 / (1 + z) with v = up x (0, 0, 1) = (y, -x, 0) (Rodrigues).
    cross = up.new_tensor([[0, 0, -x], [0, 0, -y], [x, y, 0]])
    return torch.eye(3, dtype=up.dtype) + cross + cross @ cross / (1 + z)
