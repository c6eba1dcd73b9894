"""Lenses against OpenCV's equations written out in NumPy, and the way there and back over whole images."""

import math

import numpy as np
import pytest
import torch

from nerf_dfa.errors import UserError
from nerf_dfa.rendering.cameras import Cameras
from nerf_dfa.rendering.distortion import check_lens, distort, project, undistort
from nerf_dfa.rendering.rays import camera_rays, image_rays, to_ndc

WIDTH, HEIGHT = 1000, 800
PINHOLE = [0.0] * 6
# Strong but real: an action camera, a phone's wide lens with all terms, a pincushion telephoto lens, a fisheye.
PERSPECTIVE = {
    "barrel": ([600.0, 605.0, 497.0, 404.0], [-0.28, 0.09, -0.012, 0.0, 0.0011, -0.0007]),
    "all terms": ([720.0, 718.0, 512.0, 390.0], [0.12, -0.21, 0.15, -0.03, -0.004, 0.006]),
    "pincushion": ([900.0, 900.0, 500.0, 400.0], [0.35, 0.2, 0.1, 0.05, 0.0, 0.003]),
}
FISHEYE = {
    "equidistant": ([480.0, 480.0, 500.0, 400.0], PINHOLE),
    "bent": ([470.0, 468.0, 505.0, 396.0], [0.04, -0.02, 0.006, -0.0009, 0.0, 0.0]),
    "strong": ([400.0, 400.0, 500.0, 400.0], [0.18, -0.03, 0.01, 0.002, 0.0, 0.0]),
}
LENSES = [("perspective", *lens) for lens in PERSPECTIVE.values()] + [("fisheye", *lens) for lens in FISHEYE.values()]


def by_hand(x, y, coefficients, lens):
    k1, k2, k3, k4, p1, p2 = coefficients
    r = np.hypot(x, y)
    if lens == "fisheye":
        angle = np.arctan2(r, 1)
        bent = angle + k1 * angle**3 + k2 * angle**5 + k3 * angle**7 + k4 * angle**9
        return bent * x / r, bent * y / r
    radial = 1 + k1 * r**2 + k2 * r**4 + k3 * r**6 + k4 * r**8
    return (
        x * radial + 2 * p1 * x * y + p2 * (r**2 + 2 * x**2),
        y * radial + p1 * (r**2 + 2 * y**2) + 2 * p2 * x * y,
    )


def cameras(intrinsics, coefficients, lens, dtype=torch.float64):
    c, s = math.cos(0.7), math.sin(0.7)
    poses = torch.tensor([[[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]], [[c, 0, s, 1], [0, 1, 0, -2], [-s, 0, c, 3]]])
    return Cameras(
        poses.to(dtype),
        torch.tensor([intrinsics] * 2, dtype=dtype),
        WIDTH,
        HEIGHT,
        lens,
        torch.tensor([coefficients] * 2, dtype=dtype),
    )


@pytest.mark.parametrize(("lens", "intrinsics", "coefficients"), LENSES)
def test_distortion_is_opencvs(lens, intrinsics, coefficients):
    points = torch.empty(200, 2, dtype=torch.float64).uniform_(-0.9, 0.9)
    expected = np.stack(by_hand(*points.T.numpy(), coefficients, lens), axis=1)
    bent = distort(points, torch.tensor(coefficients, dtype=torch.float64), lens)
    np.testing.assert_allclose(bent, expected, atol=1e-13)


def test_a_lens_without_coefficients_is_a_pinhole_and_an_equidistant_fisheye():
    points, none = torch.empty(20, 2, dtype=torch.float64).uniform_(-2, 2), torch.zeros(6, dtype=torch.float64)
    assert torch.equal(distort(points, none, "perspective"), points)
    at_45_degrees = torch.tensor([[0.6, -0.8]], dtype=torch.float64)
    torch.testing.assert_close(distort(at_45_degrees, none, "fisheye"), at_45_degrees * math.pi / 4)


@pytest.mark.parametrize("lens", ["perspective", "fisheye"])
def test_the_centre_stays(lens):
    centre, coefficients = torch.zeros(1, 2), torch.tensor([0.1, 0.1, 0.1, 0.1, 0.01, 0.01])
    assert torch.equal(distort(centre, coefficients, lens), centre)
    assert torch.equal(undistort(centre, coefficients, lens), centre)


@pytest.mark.parametrize(("lens", "intrinsics", "coefficients"), LENSES)
def test_undistortion_is_exact_to_a_ten_thousandth_of_a_pixel_over_the_whole_image(lens, intrinsics, coefficients):
    fx, fy, cx, cy = intrinsics
    x, y = np.meshgrid((np.arange(WIDTH) + 0.5 - cx) / fx, (np.arange(HEIGHT) + 0.5 - cy) / fy)
    found = undistort(torch.tensor(np.stack([x, y], -1)), torch.tensor(coefficients, dtype=torch.float64), lens)
    again = by_hand(*found.numpy().transpose(2, 0, 1), coefficients, lens)
    assert max(np.abs(again[0] - x).max() * fx, np.abs(again[1] - y).max() * fy) < 1e-4
    # The whole image is one leaf: neighbours stay neighbours, in order.
    assert (found[:, 1:, 0] > found[:, :-1, 0]).all()
    assert (found[1:, :, 1] > found[:-1, :, 1]).all()


@pytest.mark.parametrize(("lens", "intrinsics", "coefficients"), LENSES)
def test_project_then_unproject_is_the_identity(lens, intrinsics, coefficients):
    lenses = cameras(intrinsics, coefficients, lens)
    row, column = torch.randint(0, HEIGHT, (500,)), torch.randint(0, WIDTH, (500,))
    view, depth = torch.randint(0, 2, (500,)), torch.empty(500, dtype=torch.float64).uniform_(0.5, 9)
    rays = camera_rays(lenses, view, row, column, 0.0, 1.0)
    pixels, depths = project(lenses, view, rays.origins + depth[:, None] * rays.directions)
    assert (pixels - torch.stack([column, row], dim=-1) - 0.5).abs().max() < 1e-4
    torch.testing.assert_close(depths, depth)


@pytest.mark.parametrize(("lens", "intrinsics", "coefficients"), LENSES)
def test_rays_in_single_precision_are_those_in_double(lens, intrinsics, coefficients):
    single, double = (
        image_rays(cameras(intrinsics, coefficients, lens, dtype).resized(100, 80), 1, 0.0, 1.0)
        for dtype in (torch.float32, torch.float64)
    )
    assert single.directions.dtype == torch.float32
    torch.testing.assert_close(single.directions.double(), double.directions, rtol=1e-5, atol=1e-5)


def test_a_fisheye_ray_leaves_at_its_angle():
    """An equidistant lens shows the angle as the distance from the centre."""
    lens = cameras([480.0, 480.0, 500.0, 400.0], PINHOLE, "fisheye")
    for flat in (lens, Cameras(lens.poses, lens.intrinsics, WIDTH, HEIGHT, "fisheye")):
        view, row, column = (torch.tensor([i]) for i in (0, 120, 830))
        rays = camera_rays(flat, view, row, column, 0.0, 1.0)
        x, y = 330.5, -279.5
        angle = math.hypot(x, y) / 480
        assert math.acos(-rays.viewdirs[0, 2].item()) == pytest.approx(angle, abs=1e-6)
        assert math.atan2(-rays.viewdirs[0, 1].item(), rays.viewdirs[0, 0].item()) == pytest.approx(math.atan2(y, x))
        assert rays.directions[0, 2].item() == -1


def test_resized_images_keep_their_rays():
    """A pixel twice as large has its centre between four of the original's."""
    lens = cameras(*PERSPECTIVE["barrel"], "perspective")
    small = camera_rays(lens.resized(500, 400), *(torch.tensor([i]) for i in (1, 90, 60)), 0.0, 1.0)
    pixel, _ = project(lens, torch.tensor([1]), small.origins + 3 * small.directions)
    torch.testing.assert_close(pixel, torch.tensor([[121.0, 181.0]], dtype=torch.float64))


def test_ndc_points_of_a_bent_lens_lie_on_its_ndc_rays():
    lens = cameras(*PERSPECTIVE["all terms"], "perspective")
    row, column = torch.randint(0, HEIGHT, (50,)), torch.randint(0, WIDTH, (50,))
    view = torch.zeros(50, dtype=torch.int64)
    world, ndc = (camera_rays(lens, view, row, column, 0.0, 1.0, in_ndc) for in_ndc in (False, True))
    for depth in (1.0, 2.5, 40.0):
        points = world.origins + depth * world.directions
        at_point, _ = to_ndc(points, world.directions, lens.widest(), near=depth)
        # With its near plane through the point, the warp's origin is the point at z = -1; x and y do not depend on it.
        t = 1 - 1 / depth
        torch.testing.assert_close((ndc.origins + t * ndc.directions)[:, :2], at_point[:, :2], rtol=0, atol=1e-5)


def refused(lens, *words):
    with pytest.raises(UserError) as error:
        check_lens(lens, "a.json")
    message = str(error.value)
    assert "\n" not in message
    for word in ("a.json", *words):
        assert word in message


@pytest.mark.parametrize(("lens", "intrinsics", "coefficients"), LENSES)
def test_lenses_that_are_good_everywhere_are_accepted(lens, intrinsics, coefficients):
    check_lens(cameras(intrinsics, coefficients, lens), "a.json")


def test_lenses_that_fold_are_refused():
    focal = [600.0, 600.0, 500.0, 400.0]
    # r (1 - r^2 / 2) rises up to 0.54, less than the corner's 1.07; r (1 - 2 r^2 + 1.5 r^4) falls and rises again.
    for coefficients in ([-0.5, 0, 0, 0, 0, 0], [-2.0, 1.5, 0, 0, 0, 0], [0.0, 0, 0, 0, 0.4, 0.4]):
        refused(cameras(focal, coefficients, "perspective"), "view 0", "folds", f"{coefficients[0]:g}")
    refused(cameras(focal, [-0.6, 0, 0, 0, 0, 0], "fisheye"), "folds")
    second = cameras(focal, PINHOLE, "perspective")
    second.distortion[1, 0] = -0.5
    refused(second, "view 1", "folds")


def test_a_fisheye_that_sees_sideways_is_refused():
    half_diagonal = math.hypot(500, 400)
    wide = half_diagonal / math.radians(95)
    refused(cameras([wide, wide, 500.0, 400.0], PINHOLE, "fisheye"), "95.0 degrees", "89", "crop")
    narrower = half_diagonal / math.radians(88)
    check_lens(cameras([narrower, narrower, 500.0, 400.0], PINHOLE, "fisheye"), "a.json")


def test_a_fisheye_has_no_tangential_terms():
    refused(cameras([480.0, 480.0, 500.0, 400.0], [0, 0, 0, 0, 0.01, 0], "fisheye"), "p1 and p2")
