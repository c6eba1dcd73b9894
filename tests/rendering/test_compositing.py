"""Volume rendering against closed forms, brute force and numerical integration in float64."""

import itertools
import math

import numpy as np
import pytest
import torch

from nerf_dfa.rendering.compositing import INFINITE, composite, intervals, volume_weights

WHITE, BLACK = 1.0, 0.0
COLOUR = (0.2, 0.5, 0.9)


def doubles(*values):
    return torch.tensor(values, dtype=torch.float64)


def slab(sigma, samples, near=2.0, far=6.0, begin=None, end=None, background=WHITE):
    """One ray along a unit direction through a slab of constant density and colour in [begin, end]."""
    t = torch.linspace(near, far, samples, dtype=torch.float64)
    delta = intervals(t, doubles(far)[0], doubles(0, 0, 1), opaque_end=False)
    inside = (t >= (near if begin is None else begin)) & (t < (far if end is None else end))
    return composite(
        inside.double() * sigma, doubles(*COLOUR).expand(samples, 3), t, delta, doubles(far)[0], background
    )


def random_rays(rays=6, samples=7, scale=2.0, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape):
        return torch.rand(*shape, dtype=torch.float64, generator=generator)

    t = 2 + 4 * uniform(rays, samples).sort(-1).values
    return uniform(rays, samples) * scale, uniform(rays, samples, 3), t, torch.full((rays,), 6.0, dtype=torch.float64)


@pytest.mark.parametrize("background", [WHITE, BLACK, 0.3])
@pytest.mark.parametrize("sigma", [0.01, 0.4, 3.0])
def test_a_slab_of_constant_density_has_the_opacity_of_beer_and_lambert(sigma, background):
    pixel = slab(sigma, samples=50, background=background)
    opacity = 1 - math.exp(-sigma * 4.0)
    assert pixel.opacity.item() == pytest.approx(opacity, abs=1e-12)
    expected = [c * opacity + background * (1 - opacity) for c in COLOUR]
    assert pixel.rgb.tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("sigma", [0.3, 2.0, 10.0])
def test_the_depth_of_a_slab_is_the_integral_of_where_light_ends(sigma):
    samples, near, far, begin, end = 2001, 2.0, 6.0, 3.0, 4.5
    s = np.linspace(begin, end, 100_001)
    density_of_ends = sigma * np.exp(-sigma * (s - begin))
    expected = np.trapezoid(density_of_ends * s, s) + far * math.exp(-sigma * (end - begin))
    pixel = slab(sigma, samples, near, far, begin, end)
    spacing = (far - near) / (samples - 1)
    assert pixel.depth.item() == pytest.approx(expected, abs=spacing)
    assert pixel.disparity.item() == pytest.approx(1 / expected, rel=spacing)


def test_the_pixel_is_equation_3_of_the_paper_written_as_loops():
    sigma, rgb, t, far = random_rays()
    delta = intervals(t, far, doubles(0, 0.6, 0.8).expand(6, 3), opaque_end=False)
    pixels = composite(sigma, rgb, t, delta, far, 0.7)
    for ray in range(6):
        light, depth, opacity, colour = 0.0, 0.0, 0.0, np.zeros(3)
        for i in range(7):
            end = t[ray, i + 1].item() if i < 6 else 6.0
            absorbed = 1 - math.exp(-sigma[ray, i].item() * (end - t[ray, i].item()))
            weight = math.exp(-light) * absorbed
            assert pixels.weights[ray, i].item() == pytest.approx(weight, abs=1e-12)
            colour += weight * rgb[ray, i].numpy()
            depth, opacity = depth + weight * t[ray, i].item(), opacity + weight
            light += sigma[ray, i].item() * (end - t[ray, i].item())
        assert pixels.opacity[ray].item() == pytest.approx(opacity, abs=1e-12)
        assert pixels.depth[ray].item() == pytest.approx(depth + (1 - opacity) * 6.0, abs=1e-12)
        np.testing.assert_allclose(pixels.rgb[ray], colour + (1 - opacity) * 0.7, atol=1e-12)


@pytest.mark.parametrize("k", range(7))
def test_one_huge_density_takes_all_the_weight(k):
    _, rgb, t, far = random_rays()
    delta = intervals(t, far, doubles(0, 0, 1).expand(6, 3), opaque_end=False)
    sigma = torch.zeros_like(t)
    sigma[:, k] = 1e12
    pixels = composite(sigma, rgb, t, delta, far, WHITE)
    torch.testing.assert_close(pixels.weights, torch.eye(7, dtype=torch.float64)[k].expand(6, 7))
    torch.testing.assert_close(pixels.rgb, rgb[:, k])
    torch.testing.assert_close(pixels.depth, t[:, k])


@pytest.mark.parametrize("background", [WHITE, BLACK, 0.3])
def test_empty_space_shows_the_background_at_the_far_end(background):
    _, rgb, t, far = random_rays()
    pixels = composite(torch.zeros_like(t), rgb, t, torch.ones_like(t), far, background)
    assert torch.equal(pixels.rgb, torch.full((6, 3), background, dtype=torch.float64))
    assert torch.equal(pixels.depth, far)
    assert not pixels.opacity.any()
    assert torch.equal(pixels.disparity, 1 / far)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_weights_are_shares_of_one_ray_of_light(scale):
    generator = torch.Generator().manual_seed(0)
    sigma = torch.exp(5 * torch.randn(1000, 64, generator=generator)) * scale
    delta = torch.rand(1000, 64, generator=generator)
    weights = volume_weights(sigma, delta)
    assert (weights >= 0).all()
    assert (weights.sum(-1) <= 1 + 1e-5).all()
    passes = torch.exp(-(sigma.double() * delta.double()).sum(-1))
    torch.testing.assert_close(weights.double().sum(-1), 1 - passes, rtol=1e-4, atol=1e-6)


def test_values_and_gradients_are_finite_for_any_density_and_length():
    densities = [0.0, 1e-30, 1e-10, 1e-3, 1.0, 1e3, 1e10, 1e30]
    lengths = [0.0, 1e-6, 0.1, INFINITE]
    cases = torch.tensor(
        list(itertools.product(densities, densities, densities, lengths, lengths[:3], [*lengths[:3], INFINITE]))
    )
    sigma, delta = (x.clone().requires_grad_() for x in (cases[:, :3], cases[:, 3:]))
    rgb = torch.tensor([COLOUR, COLOUR[::-1], COLOUR]).expand(len(cases), 3, 3).clone().requires_grad_()
    t = torch.tensor([2.0, 3.0, 4.0]).expand(len(cases), 3)
    pixels = composite(sigma, rgb, t, delta, torch.full((len(cases),), 6.0), WHITE)
    (pixels.rgb.sum() + pixels.depth.sum() + pixels.disparity.sum() + pixels.weights.square().sum()).backward()
    for x in (*pixels, sigma.grad, delta.grad, rgb.grad):
        assert x.isfinite().all()
    assert (pixels.rgb >= 0).all()
    assert (pixels.rgb <= 1 + 1e-6).all()


def test_gradients_equal_finite_differences():
    sigma, rgb, t, far = random_rays(rays=2, samples=4)
    delta = intervals(t, far, doubles(0, 0, 1).expand(2, 3), opaque_end=False)

    def pixel(sigma, rgb):
        return tuple(composite(sigma, rgb, t, delta, far, WHITE))

    assert torch.autograd.gradcheck(pixel, (sigma.requires_grad_(), rgb.requires_grad_()))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_splitting_an_interval_does_not_change_the_pixel(share):
    sigma, rgb, t, far = random_rays()
    delta = intervals(t, far, doubles(0, 0, 1).expand(6, 3), opaque_end=False)
    whole = composite(sigma, rgb, t, delta, far, WHITE)
    split = [torch.cat([x[:, :4], x[:, 3:]], dim=1) for x in (sigma, rgb, t, delta)]
    split[2][:, 4] += share * delta[:, 3]
    split[3][:, 3], split[3][:, 4] = share * delta[:, 3], (1 - share) * delta[:, 3]
    parts = composite(*split, far, WHITE)
    torch.testing.assert_close(parts.rgb, whole.rgb, rtol=0, atol=1e-12)
    torch.testing.assert_close(parts.opacity, whole.opacity, rtol=0, atol=1e-12)
    torch.testing.assert_close(parts.weights[:, 3:5].sum(-1), whole.weights[:, 3], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("far", "opaque_end", "expected"),
    [
        (5.0, False, [2.0, 4.0, 2.0]),
        (4.0, False, [2.0, 4.0, 0.0]),
        (3.0, False, [2.0, 4.0, 0.0]),  # the last sample lies beyond far: no length below zero
        (5.0, True, [2.0, 4.0, 2e10]),
    ],
)
def test_lengths_of_intervals_are_in_scene_units_and_end_at_far_or_nowhere(far, opaque_end, expected):
    direction = doubles(0.0, 1.2, 1.6)  # of length 2
    assert intervals(doubles(1, 2, 4), doubles(far)[0], direction, opaque_end).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_the_same_ray_with_a_longer_direction_gives_the_same_pixel(scale):
    sigma, rgb, t, far = random_rays()
    direction = torch.randn(6, 3, dtype=torch.float64)
    one, other = (
        composite(sigma, rgb, t / k, intervals(t / k, far / k, direction * k, False), far / k, WHITE)
        for k in (1.0, scale)
    )
    torch.testing.assert_close(one.rgb, other.rgb, rtol=0, atol=1e-12)
    torch.testing.assert_close(one.depth, other.depth * scale, rtol=0, atol=1e-12)


def test_an_opaque_end_hides_the_background_wherever_the_last_sample_has_any_density():
    sigma, rgb, t, far = random_rays(scale=1e-3)
    delta = intervals(t, far, doubles(0, 0, 1).expand(6, 3), opaque_end=True)
    white, black = (composite(sigma, rgb, t, delta, far, background) for background in (WHITE, BLACK))
    torch.testing.assert_close(white.opacity, torch.ones(6, dtype=torch.float64))
    torch.testing.assert_close(white.rgb, black.rgb)
    before_last = torch.exp(-(sigma * delta)[:, :-1].sum(-1))
    torch.testing.assert_close(white.weights[:, -1], before_last)
