"""Where to put the camera for new views: pure geometry on camera-to-world matrices.

Matrices are OpenGL camera-to-world [R | t] (see rendering/cameras.py): a camera looks along the negative
third column of R. Paths are closed: frame i of n stands at the angle 2 pi i / n, so that a video loops.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from nerf_dfa.errors import UserError
from nerf_dfa.scenes.scene import Scene

# Cameras whose axes all lie within this angle of their mean stand on one side of the scene.
FORWARD_FACING_DEGREES = 45.0
# Length of the cameras' mean viewing direction, from which on there is an average view: a dome has 0.5, a cone of half
# angle 60 degrees 0.75.
LEAST_COMMON_VIEW = 0.7
# An NDC scene whose bounds are not known begins at the near plane, one unit ahead, and has no end.
NDC_DEPTH_RANGE = (1.0, math.inf)


def look_at(centre: Float[Tensor, " 3"], target: Float[Tensor, " 3"], up: Float[Tensor, " 3"]) -> Float[Tensor, "3 4"]:
    """The camera at `centre` that sees `target` in the middle of its image and `up` upright.

    Raises:
        ValueError: the centre is the target, or it looks straight along `up`.
    """
    return _pose(centre - target, up, centre)


def _pose(backward: Float[Tensor, " 3"], up: Float[Tensor, " 3"], centre: Float[Tensor, " 3"]) -> Float[Tensor, "3 4"]:
    z = normalize(backward, dim=0)
    right = torch.linalg.cross(up, z)
    if right.norm() <= 1e-6 * up.norm():
        raise ValueError("a camera that looks straight up or down, or nowhere, has no upright image")
    x = normalize(right, dim=0)
    return torch.stack([x, torch.linalg.cross(z, x), z, centre], dim=1)


def average_pose(poses: Float[Tensor, "n 3 4"]) -> Float[Tensor, "3 4"]:
    """The mean camera: at the mean centre, along the mean axis, upright as the others are on average.

    Raises:
        ValueError: the axes cancel out, as those of cameras evenly all around an object do.
    """
    up, backward, centre = poses.mean(0)[:, 1:].unbind(1)
    if backward.norm() < 1e-6:
        raise ValueError("these cameras look all ways, which has no average")
    return _pose(backward, up, centre)


def nearest_to_axes(poses: Float[Tensor, "n 3 4"]) -> Float[Tensor, " 3"]:
    """The point with the least sum of squared distances to the cameras' optical axes: what they all look at.

    The distance of p from the line c + s z is |(I - z z^T)(p - c)|, so p solves sum_i P_i p = sum_i P_i c_i
    with P = I - z z^T; for parallel axes, where any depth serves, the solution of least norm.
    """
    z, centres = poses[:, :, 2], poses[:, :, 3]
    projections = torch.eye(3, dtype=poses.dtype, device=poses.device) - z[:, :, None] * z[:, None, :]
    moments = (projections @ centres[:, :, None]).sum(0)[:, 0]
    return torch.linalg.pinv(projections.sum(0), rtol=1e-6, hermitian=True) @ moments


def is_forward_facing(poses: Float[Tensor, "n 3 4"]) -> bool:
    """Whether the cameras all look roughly the same way, as in a hand-held capture of a wall or a shelf."""
    z = normalize(poses[:, :, 2], dim=1)
    mean = normalize(z.sum(0), dim=0)
    return bool((z @ mean).min() > math.cos(math.radians(FORWARD_FACING_DEGREES)))


def circle_path(
    poses: Float[Tensor, "n 3 4"], up: tuple[float, float, float], frames: int
) -> Float[Tensor, "{frames} 3 4"]:
    """A turntable for inward-facing captures: around the point that the cameras look at, from their distance.

    Radius and elevation are the medians over the cameras; the turn is counter-clockwise as seen from above.
    """
    poses64 = poses.double()
    axis = normalize(poses64.new_tensor(up), dim=0)
    target = nearest_to_axes(poses64)
    offsets = poses64[:, :, 3] - target
    distances = offsets.norm(dim=1)
    radius = distances.quantile(0.5)
    if radius <= 1e-6:
        raise UserError("the cameras all stand at one point: there is nothing to circle around")
    elevation = torch.asin((offsets @ axis / distances).clamp(-1, 1)).quantile(0.5)
    # The turn begins over the world axis that is furthest from up: x where up is z.
    start = torch.eye(3, dtype=torch.float64, device=poses.device)[axis.abs().argmin()]
    start = normalize(start - (start @ axis) * axis, dim=0)
    side = torch.linalg.cross(axis, start)
    path = []
    for angle in _angles(frames):
        level = math.cos(angle) * start + math.sin(angle) * side
        offset = radius * (torch.cos(elevation) * level + torch.sin(elevation) * axis)
        path.append(look_at(target + offset, target, axis))
    return torch.stack(path).to(poses.dtype)


def spiral_path(
    poses: Float[Tensor, "n 3 4"],
    depth_range: tuple[float, float],
    frames: int,
    rotations: int = 2,
    zrate: float = 0.5,
) -> Float[Tensor, "{frames} 3 4"]:
    """LLFF's and NeRF's spiral for forward-facing captures: about the average camera, looking at the focus.

    At the angle a the camera stands at (r_x cos a, -r_y sin a, -r_z sin(zrate a)) in the average camera's
    frame, where r is the 90th percentile of the cameras' distances from it along each axis.

    Args:
        poses: the cameras of the capture.
        depth_range: nearest and furthest depth of the scene, in the units of the poses.
        frames: views to make.
        rotations: turns; the path closes where rotations * zrate is a whole number.
        zrate: swings forward and back per turn; 0 stays in the plane of the average camera.
    """
    poses64 = poses.double()
    average = average_pose(poses64)
    rotation, centre = average[:, :3], average[:, 3]
    offsets = (poses64[:, :, 3] - centre) @ rotation
    radii = offsets.abs().quantile(0.9, dim=0)
    target = centre - focus_depth(depth_range) * rotation[:, 2]
    path = []
    for angle in _angles(frames):
        angle *= rotations
        swing = radii.new_tensor([math.cos(angle), -math.sin(angle), -math.sin(angle * zrate)])
        path.append(look_at(centre + rotation @ (radii * swing), target, rotation[:, 1]))
    return torch.stack(path).to(poses.dtype)


def focus_depth(depth_range: tuple[float, float]) -> float:
    """NeRF's depth of focus for spirals: three quarters of the way, in disparity, from 0.9 near to 5 far.

    A near of 0 says nothing of where the scene begins; the focus is then half way to far.
    """
    if depth_range[0] == 0:
        return 0.5 * depth_range[1]
    near, far = 0.9 * depth_range[0], 5 * depth_range[1]
    return 1 / (0.25 / near + 0.75 / far)


def _angles(frames: int) -> list[float]:
    if frames < 1:
        raise UserError(f"a camera path needs at least one frame, not {frames}")
    return [2 * math.pi * frame / frames for frame in range(frames)]


def _captured(scene: Scene) -> Float[Tensor, "n 3 4"]:
    """The poses that say how the scene was photographed: those of the training views, or else of all."""
    return scene.cameras.poses[list(scene.split["train"] or range(len(scene.cameras)))]


def _depth_range(scene: Scene) -> tuple[float, float]:
    return scene.depth_range or (NDC_DEPTH_RANGE if scene.ndc else (scene.near, scene.far))


def _is_one_sided(scene: Scene) -> bool:
    return scene.ndc or is_forward_facing(_captured(scene))


def _circle(scene: Scene, frames: int) -> Float[Tensor, "{frames} 3 4"]:
    """A turntable, or where the cameras stand on one side, one flat turn before the scene."""
    poses = _captured(scene)
    if _is_one_sided(scene):
        return spiral_path(poses, _depth_range(scene), frames, rotations=1, zrate=0.0)
    return circle_path(poses, scene.up, frames)


def _spiral(scene: Scene, frames: int) -> Float[Tensor, "{frames} 3 4"]:
    poses = _captured(scene)
    if normalize(poses[:, :, 2], dim=1).mean(0).norm() < LEAST_COMMON_VIEW:
        raise UserError(
            f"{scene.name} was captured from all around, and has no side to spiral on; choose the path circle"
        )
    return spiral_path(poses, _depth_range(scene), frames)


def _test(scene: Scene, frames: int) -> Float[Tensor, "views 3 4"]:
    if not scene.split["test"]:
        raise UserError(f"{scene.name} has no test views to follow; choose the path circle or spiral")
    return scene.cameras.poses[list(scene.split["test"])]


# To add a path: a function of the scene and the number of frames.
PATHS: dict[str, Callable[[Scene, int], Tensor]] = {"circle": _circle, "spiral": _spiral, "test": _test}


def make_path(name: str, scene: Scene, frames: int) -> Float[Tensor, "views 3 4"]:
    """Camera-to-world matrices of a path through the scene.

    Args:
        name: "circle" (a turntable; before a forward-facing scene a flat turn), "spiral" (NeRF's, for
            forward-facing scenes) or "test" (the places of the test views, in order, whatever `frames` is).
        scene: its training views say how far away and how high to go.
        frames: views to make.

    Raises:
        UserError: there is no path of that name, no frame is asked for, or there are no views to follow.
    """
    if name not in PATHS:
        raise UserError(f"no camera path is called {name!r}; choose one of {', '.join(PATHS)}")
    return PATHS[name](scene, frames)


def default_path(scene: Scene) -> str:
    """The path that suits the capture: "spiral" if it is forward-facing, else "circle"."""
    return "spiral" if _is_one_sided(scene) else "circle"
