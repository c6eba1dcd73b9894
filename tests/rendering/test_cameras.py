"""Sets of cameras: choosing some, and the same lens at other resolutions and places."""

import pytest
import torch

from nerf_dfa.rendering.cameras import Cameras
from nerf_dfa.rendering.rays import image_rays


def make_cameras(views=5, width=8, height=6):
    generator = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(views, 3, 3, generator=generator, dtype=torch.float64)).Q
    centres = torch.randn(views, 3, 1, generator=generator, dtype=torch.float64)
    intrinsics = torch.tensor([7.0, 9.0, 3.2, 2.6], dtype=torch.float64) + torch.arange(views)[:, None]
    return Cameras(torch.cat([axes, centres], dim=-1), intrinsics, width, height)


@pytest.mark.parametrize(
    ("index", "views"),
    [
        (2, [2]),
        (-1, [4]),
        (slice(1, 4), [1, 2, 3]),
        ([3, 0], [3, 0]),
        ((3, 0), [3, 0]),
        (torch.tensor([4, 4, 1]), [4, 4, 1]),
        (torch.tensor([True, False, False, True, False]), [0, 3]),
    ],
)
def test_an_index_chooses_poses_and_intrinsics_alike(index, views):
    cameras = make_cameras()
    chosen = cameras[index]
    assert len(chosen) == len(views)
    assert (chosen.width, chosen.height) == (8, 6)
    for k, view in enumerate(views):
        assert torch.equal(chosen.poses[k], cameras.poses[view])
        assert torch.equal(chosen.intrinsics[k], cameras.intrinsics[view])


def test_resizing_scales_focal_length_and_centre_of_each_axis():
    resized = make_cameras().resized(24, 3)
    assert (resized.width, resized.height) == (24, 3)
    # 8 -> 24 columns is a factor of 3, 6 -> 3 rows a factor of 1/2.
    torch.testing.assert_close(resized.intrinsics[0], torch.tensor([21.0, 4.5, 9.6, 1.3], dtype=torch.float64))


@pytest.mark.parametrize(("rows", "columns"), [(2, 2), (3, 4), (1, 2)])
def test_resized_cameras_look_through_the_same_window(rows, columns):
    """A pixel of the small image covers a block of the large one, and its ray is the mean of the block's rays."""
    large = make_cameras()
    small = large.resized(8 // columns, 6 // rows)
    blocks = image_rays(large, 1, 2.0, 6.0).directions.unflatten(0, (-1, rows)).unflatten(2, (-1, columns))
    torch.testing.assert_close(image_rays(small, 1, 2.0, 6.0).directions, blocks.mean(dim=(1, 3)))


def test_other_poses_share_the_first_lens():
    cameras = make_cameras()
    poses = torch.randn(7, 3, 4, dtype=torch.float64)
    moved = cameras.with_poses(poses)
    assert torch.equal(moved.poses, poses)
    assert moved.intrinsics.tolist() == [[7.0, 9.0, 3.2, 2.6]] * 7
    assert (len(moved), moved.width, moved.height) == (7, 8, 6)
