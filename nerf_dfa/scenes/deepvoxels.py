"""Scenes of the synthetic DeepVoxels data set: views of an object from all over a hemisphere.

A folder has train, validation and test, each with a folder for each shape, which holds
* `intrinsics.txt`: the lines `f cx cy ...` in pixels, a point and two numbers that only DeepVoxels uses, `height width`
  of the images that f, cx and cy are for, and, if it is there, 1 where poses are world-to-camera;
* `pose/*.txt`: 16 numbers each, a camera-to-world matrix in axes x right, y down, z ahead;
* `rgb/*.png`: in the order of their names the images of the poses.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from nerf_dfa.errors import UserError
from nerf_dfa.rendering.cameras import Cameras
from nerf_dfa.scenes.images import fit_width, image_shape, load_images
from nerf_dfa.scenes.scene import POSE_TOLERANCE, Scene, check_bounds, check_pose

FOLDERS = {"train": "train", "val": "validation", "test": "test"}
# The objects lie within this distance of the origin; nerf-pytorch takes near and far so much before and behind it.
OBJECT_RADIUS = 1.0


class _Lens(NamedTuple):
    """Focal length and principal point in pixels of an image of height x width; whether poses are world-to-camera."""

    focal: float
    centre: tuple[float, float]
    width: float
    height: float
    inverted: bool


def find_shapes(root: Path) -> list[str]:
    """Names of the shapes of a DeepVoxels folder; "" is a shape without a folder of its own."""
    train = root / FOLDERS["train"]
    if not train.is_dir():
        return []
    if (train / "intrinsics.txt").is_file():
        return [""]
    return sorted(path.name for path in train.iterdir() if (path / "intrinsics.txt").is_file())


def load_deepvoxels(
    root: str | Path,
    *,
    shape: str | None = None,
    testskip: int = 1,
    image_size: int | None = None,
    near: float | None = None,
    far: float | None = None,
) -> Scene:
    """A scene in a folder with {train,validation,test}/SHAPE/{rgb,pose,intrinsics.txt}; SHAPE may be left out.

    Images may be a smaller or larger, centred part of those that the lens was measured with: 512x512 pixels of
    480x640 in the data set. (nerf-pytorch takes their size to be 512x512 and the lens to be centred.)

    Args:
        root: the scene's folder.
        shape: which object, for example cube or vase; it may be left out where there is only one.
        testskip: keep every testskip-th view of validation and test; 0 and 1 keep all.
        image_size: width in pixels to average the images down to, height in proportion.
        near, far: bounds of depth; by default the cameras' mean distance from the origin minus and plus 1, as
            nerf-pytorch does.

    Raises:
        UserError: a file or folder is missing or wrong, named with what was expected.
    """
    root = Path(root).expanduser()
    if testskip < 0:
        raise UserError(f"testskip {testskip}: expected 0 or more")
    shape = _choose(root, shape)
    names: list[str] = []
    poses: list[Float[Tensor, "3 4"]] = []
    intrinsics: list[list[float]] = []
    split: dict[str, tuple[int, ...]] = dict.fromkeys(FOLDERS, ())
    for name, folder in FOLDERS.items():
        if not (root / folder / shape).is_dir():
            if name == "train":
                raise UserError(f"{root / folder / shape}: no such folder")
            continue
        skip = 1 if name == "train" else max(testskip, 1)
        lens = _read_lens(root / folder / shape / "intrinsics.txt")
        images, files = _read_lists(root / folder / shape)
        start = len(names)
        names += [path.relative_to(root).as_posix() for path in images[::skip]]
        poses += [_read_pose(file, lens.inverted) for file in files[::skip]]
        width, height, _ = image_shape(images[0])
        intrinsics += [_intrinsics(lens, width, height)] * (len(names) - start)
        split[name] = tuple(range(start, len(names)))

    all_poses = torch.stack(poses)
    radius = all_poses[:, :, 3].norm(dim=1).mean().item()
    near = radius - OBJECT_RADIUS if near is None else near
    far = radius + OBJECT_RADIUS if far is None else far
    check_bounds(near, far, False, f"{root / FOLDERS['train'] / shape}")

    paths = [root / name for name in names]
    width, height, _ = image_shape(paths[0])
    size = (width, height) if image_size is None else fit_width(width, height, image_size)
    return Scene(
        name=shape or root.resolve().name,
        images=load_images(paths, size),
        cameras=Cameras(all_poses.float(), torch.tensor(intrinsics), width, height).resized(*size),
        names=tuple(names),
        split=split,
        near=near,
        far=far,
        up=_up(all_poses),
    )


def _choose(root: Path, shape: str | None) -> str:
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    shapes = find_shapes(root)
    if not shapes:
        raise UserError(f"{root / 'train'}: no intrinsics.txt in it or in a folder of it; a DeepVoxels scene needs it")
    if shape is None and len(shapes) > 1:
        raise UserError(f"{root}: choose a shape: {', '.join(shapes)}")
    if shape is not None and shape not in shapes:
        raise UserError(f"{root}: no shape {shape}; there is {', '.join(shapes) if shapes != [''] else 'only one'}")
    return shapes[0] if shape is None else shape


def _numbers(file: Path) -> list[list[float]]:
    """The numbers of each line of a text file, empty lines left out."""
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise UserError(f"{file}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read as text ({error})") from error
    try:
        return [[float(word) for word in line.split()] for line in lines if line.strip()]
    except ValueError:
        raise UserError(f"{file}: holds something that is no number") from None


def _read_lens(file: Path) -> _Lens:
    rows = _numbers(file)
    if len(rows) < 5 or len(rows[0]) < 3 or len(rows[4]) != 2:
        raise UserError(f"{file}: expected the lines f cx cy; x y z; near; scale; height width; and 0 or 1 if any")
    (focal, cx, cy), (height, width) = rows[0][:3], rows[4]
    numbers = torch.tensor([focal, cx, cy, height, width])
    if not numbers.isfinite().all() or min(focal, height, width) <= 0:
        raise UserError(f"{file}: f {focal:g}, cx {cx:g}, cy {cy:g}, {height:g} x {width:g}; expected positive numbers")
    return _Lens(focal, (cx, cy), width, height, inverted=len(rows) > 5 and rows[5] == [1])


def _intrinsics(lens: _Lens, width: int, height: int) -> list[float]:
    """fx, fy, cx, cy of the largest centred part that has the shape of an image of this size, scaled to it."""
    scale = max(width / lens.width, height / lens.height)
    cx, cy = lens.centre
    focal = lens.focal * scale
    return [focal, focal, (cx - lens.width / 2) * scale + width / 2, (cy - lens.height / 2) * scale + height / 2]


def _read_lists(folder: Path) -> tuple[list[Path], list[Path]]:
    """Images and poses, as many of these as of those."""
    lists = []
    for kind, suffix in (("rgb", ".png"), ("pose", ".txt")):
        if not (folder / kind).is_dir():
            raise UserError(f"{folder / kind}: no such folder")
        files = (folder / kind).iterdir()
        lists.append(sorted(f for f in files if f.suffix.lower() == suffix and not f.name.startswith(".")))
    images, poses = lists
    if len(images) != len(poses):
        raise UserError(f"{folder}: {len(images)} images in rgb, but {len(poses)} poses in pose")
    if not images:
        raise UserError(f"{folder / 'rgb'}: no .png images in this folder")
    names = {path.stem for path in images}
    alone = [path for path in poses if path.stem not in names]
    if alone and len(alone) < len(poses):  # where no name is shared, the order of the names is meant
        raise UserError(f"{alone[0]}: there is no image of this name in {folder / 'rgb'}")
    return images, poses


def _read_pose(file: Path, inverted: bool) -> Float[Tensor, "3 4"]:
    """A pose file as camera-to-world in OpenGL axes, in float64."""
    values = [value for row in _numbers(file) for value in row]
    if len(values) != 16:
        raise UserError(f"{file}: {len(values)} numbers; expected 16, a 4x4 matrix")
    matrix = torch.tensor(values, dtype=torch.float64).reshape(4, 4)
    check_pose(matrix[:3], str(file))
    if (matrix[3] - matrix.new_tensor([0, 0, 0, 1])).abs().max() > POSE_TOLERANCE:
        raise UserError(f"{file}: the last row is not 0 0 0 1")
    rotation, translation = matrix[:3, :3], matrix[:3, 3]
    if inverted:
        rotation, translation = rotation.T, -rotation.T @ translation
    return torch.cat([rotation * rotation.new_tensor([1, -1, -1]), translation[:, None]], dim=1)


def _up(poses: Float[Tensor, "n 3 4"]) -> tuple[float, float, float]:
    """The axis of the world that is nearest to the cameras' mean up axis."""
    mean = poses[:, :, 1].mean(0)
    axis = int(mean.abs().argmax())
    return tuple(float(mean[axis].sign()) if i == axis else 0.0 for i in range(3))
