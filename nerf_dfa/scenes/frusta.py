"""A drawing of where a scene's cameras stand and look."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from nerf_dfa.files import written_whole
from nerf_dfa.rendering.cameras import Cameras
from nerf_dfa.scenes.paths import nearest_to_axes

if TYPE_CHECKING:
    from mpl_toolkits.mplot3d.axes3d import Axes3D

COLOURS = {"train": "tab:blue", "test": "tab:orange", "val and test": "tab:orange", "val": "tab:green"}
# A frustum's length, as a share of the width of what is drawn.
LENGTH = 0.07
# Frusta of one colour; more hide each other.
MOST = 100
# A bound further away than so many times the cameras' own extent would leave no room for these.
FURTHEST = 4.0
# Name, elevation and azimuth of each view, in degrees.
VIEWS = (("from one side", 20, -60), ("from another side", 20, 30), ("from above", 90, -90))


def corners(cameras: Cameras, depth: float) -> Float[Tensor, "views 4 3"]:
    """The corners of each image in the world, at a depth along the axis: lower left, lower right, upper right and left.

    Distortion is left out.
    """
    fx, fy, cx, cy = cameras.intrinsics.double().unbind(-1)
    left, right = -cx / fx, (cameras.width - cx) / fx
    top, bottom = cy / fy, -(cameras.height - cy) / fy
    x, y = torch.stack([left, right, right, left], -1), torch.stack([bottom, bottom, top, top], -1)
    local = depth * torch.stack([x, y, -torch.ones_like(x)], dim=-1)
    poses = cameras.poses.double()
    return local @ poses[:, :, :3].mT + poses[:, None, :, 3]


def upright(up: tuple[float, float, float]) -> Float[Tensor, "3 3"]:
    """A rotation that takes `up` to +z, and, where up is y, x to x."""
    z = normalize(torch.tensor(up, dtype=torch.float64), dim=0)
    start = torch.eye(3, dtype=torch.float64)[0 if abs(z[0]) < 0.9 else 1]
    x = normalize(start - (start @ z) * z, dim=0)
    return torch.stack([x, torch.linalg.cross(z, x), z])


def draw_cameras(
    file: Path,
    cameras: Cameras,
    split: dict[str, Sequence[int]],
    up: tuple[float, float, float] = (0.0, 0.0, 1.0),
    depths: tuple[float, float] | None = None,
    title: str = "",
) -> None:
    """Draws the cameras' frusta from two sides and from above, as a PNG.

    Args:
        file: where to write it.
        cameras: all cameras of the scene.
        split: indices for "train", "val" and "test"; a camera in two of them is drawn once, in the colour of the
            first of train, test and val.
        up: the world's upward direction.
        depths: near and far along the axis, shown for the first training camera.

    """
    from matplotlib.figure import Figure  # takes a second to import
    from mpl_toolkits.mplot3d.art3d import Line3DCollection

    turn = upright(up)
    centres = cameras.poses[:, :, 3].double() @ turn.T
    extent = max((centres.max(0).values - centres.min(0).values).max().item(), 1e-6)
    first = cameras[int(next(iter([*split.get("train", ()), 0])))]
    squares = {depth: corners(first, depth)[0] @ turn.T for depth in depths or () if 0 < depth <= FURTHEST * extent}
    meeting = nearest_to_axes(cameras.poses.double()) @ turn.T
    near_by = (meeting - centres.mean(0)).norm() <= 2 * extent
    shown = torch.cat([centres, *squares.values(), *([meeting[None]] if near_by else [])])
    low, high = shown.min(0).values, shown.max(0).values
    size = (high - low).max().item()
    lines = _frusta(cameras, split, turn, LENGTH * size)

    figure = Figure(figsize=(16, 6.5), layout="constrained")
    for column, (name, elevation, azimuth) in enumerate(VIEWS, 1):
        axes: Axes3D = figure.add_subplot(1, 3, column, projection="3d", proj_type="ortho")
        axes.view_init(elevation, azimuth)
        for label, strokes in lines.items():
            colour = COLOURS.get(label.partition(":")[0], "tab:gray")
            axes.add_collection3d(Line3DCollection(strokes, colors=colour, linewidths=0.7, alpha=0.7, label=label))
        apex = first.poses[0, :, 3].double() @ turn.T
        for depth, style in zip(depths or (), ("-", "--"), strict=False):
            kind = f"{'near' if style == '-' else 'far'} {depth:.3g} of the first camera"
            square = squares.get(depth)
            if square is None:
                axes.plot([], [], [], color="tab:red", linestyle=style, label=f"{kind}: not drawn")
                continue
            axes.plot(*torch.cat([square, square[:1]]).T.numpy(), color="tab:red", linestyle=style, label=kind)
            for corner in square:
                axes.plot(*torch.stack([apex, corner]).T.numpy(), color="tab:red", linewidth=0.5)
        if near_by:
            axes.plot(*meeting[:, None].numpy(), "k+", markersize=12, linestyle="", label="where the axes meet")
        middle, reach = (low + high) / 2, 0.52 * size
        limits = [(m - reach, m + reach) for m in middle.tolist()]
        axes.set(xlim=limits[0], ylim=limits[1], zlim=limits[2], title=name)
        axes.set(xlabel=_axis_name(turn[0]), ylabel=_axis_name(turn[1]), zlabel="up" if column == 2 else "")
        axes.set_box_aspect((1, 1, 1), zoom=1.3 if elevation == 90 else 1.0)
        if elevation == 90:
            axes.set(zticks=[])
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), title=title)
    with written_whole(file) as unfinished:
        figure.savefig(unfinished, dpi=100, format="png")


def _axis_name(direction: Float[Tensor, " 3"]) -> str:
    """The axis of the world along a direction, if there is one."""
    largest = int(direction.abs().argmax())
    return ("-" if direction[largest] < 0 else "") + "xyz"[largest] if direction.abs()[largest] > 0.999 else ""


def _frusta(
    cameras: Cameras, split: dict[str, Sequence[int]], turn: Float[Tensor, "3 3"], length: float
) -> dict[str, Float[np.ndarray, "lines points 3"]]:
    """For each split the lines of its frusta, each drawn in one stroke, with a peak that marks the image's top."""
    groups = {name: split[name] for name in (*COLOURS, *split) if name in split}
    if set(groups.get("val", ())) == set(groups.get("test", ())):
        groups = {"val and test" if name == "test" else name: views for name, views in groups.items() if name != "val"}
    drawn: set[int] = set()
    lines = {}
    for name, chosen in groups.items():
        left = [view for view in chosen if view not in drawn]
        drawn.update(left)
        if not left:
            continue
        some = left[:: -(-len(left) // MOST)]
        # Flatter where the lens is wide, so that all frusta are of about one size.
        wide = cameras[some].intrinsics[:, 0].double() / cameras.width
        depth = length * float(wide.mean().clamp(max=1.5))
        centre = cameras.poses[some][:, :, 3].double()
        a, b, c, d = corners(cameras[some], depth).unbind(1)
        peak = (c + d) / 2 + 0.25 * ((c + d) - (a + b)) / 2
        strokes = torch.stack([centre, a, b, centre, c, d, centre, a, d, peak, c, b], dim=1)
        lines[f"{name}: {len(left)}" + (f" ({len(some)} drawn)" if len(some) < len(left) else "")] = (
            strokes @ turn.T
        ).numpy()
    return lines
