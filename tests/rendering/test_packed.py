"""Packed samples against the dense compositing, and against a loop over each ray in float64."""

import math

import pytest
import torch

from nerf_dfa.learning.room import Room
from nerf_dfa.rendering.compositing import composite, intervals
from nerf_dfa.rendering.packed import DARK, TOGETHER, composite_packed, in_sight, light_before, pack

RAYS, SAMPLES, FAR = 7, 12, 5.0


@pytest.fixture
def scene():
    """t, delta, sigma, rgb of rays with matter here and there."""
    generator = torch.Generator().manual_seed(0)
    t = (1 + 4 * torch.rand(RAYS, SAMPLES, generator=generator)).sort(dim=1).values
    delta = intervals(t, torch.full((RAYS,), FAR), torch.tensor([0.0, 0.6, 0.8]).expand(RAYS, 3), opaque_end=False)
    sigma = torch.rand(RAYS, SAMPLES, generator=generator) * 3
    sigma[torch.rand(RAYS, SAMPLES, generator=generator) < 0.5] = 0
    sigma[2] = 0  # a ray that meets nothing
    return t, delta, sigma, torch.rand(RAYS, SAMPLES, 3, generator=generator)


def packed(chosen, t, delta, sigma, rgb):
    samples = pack(chosen, t, delta)
    values = sigma.view(-1)[samples.index], rgb.view(-1, 3)[samples.index]
    return composite_packed(samples, *values, t, torch.full((RAYS,), FAR), 0.7)[0]


@pytest.mark.parametrize("all_of_them", [True, False])
def test_pixels_are_those_of_dense_compositing(scene, all_of_them):
    t, delta, sigma, rgb = scene
    chosen = torch.ones_like(sigma, dtype=torch.bool) if all_of_them else sigma > 0
    expected = composite(sigma, rgb, t, delta, torch.full((RAYS,), FAR), 0.7)
    for got, value in zip(packed(chosen, t, delta, sigma, rgb), expected, strict=True):
        torch.testing.assert_close(got, value, rtol=1e-5, atol=1e-6)


def test_gradients_are_those_of_dense_compositing(scene):
    t, delta, sigma, rgb = scene
    target = torch.rand(RAYS, 3)
    gradients = []
    for sparse in (False, True):
        s, c = sigma.clone().requires_grad_(), rgb.clone().requires_grad_()
        if sparse:
            pixels = packed(torch.ones_like(s, dtype=torch.bool), t, delta, s, c)
        else:
            pixels = composite(s, c, t, delta, torch.full((RAYS,), FAR), 0.7)
        (pixels.rgb - target).square().sum().backward()
        gradients.append((s.grad, c.grad))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_light_of_each_ray_against_a_loop():
    counts = [3, 0, 5, 1, 0]
    ray = torch.tensor([r for r, n in enumerate(counts) for _ in range(n)])
    depth = torch.rand(len(ray), generator=torch.Generator().manual_seed(1)) * 4
    before, through = light_before(depth, ray, len(counts))
    at = 0
    for r, n in enumerate(counts):
        light = 1.0
        for _ in range(n):
            assert before[at].item() == pytest.approx(light, rel=1e-6)
            light *= math.exp(-depth[at].item())
            at += 1
        assert through[r].item() == pytest.approx(light, rel=1e-6)


def test_endless_and_many_samples_lose_no_precision():
    """Behind 50,000 rays that end in an endless interval, the last one is as exact as the first."""
    rays, t = 50_000, torch.tensor([[1.0, 2.0]])
    delta = torch.tensor([[1.0, 1e10]]).expand(rays, 2).contiguous()
    chosen = torch.ones(rays, 2, dtype=torch.bool)
    samples = pack(chosen, t.expand(rays, 2).contiguous(), delta)
    values = torch.full((2 * rays,), 0.5), torch.ones(2 * rays, 3)
    seen, _ = composite_packed(samples, *values, delta, torch.full((rays,), FAR), 0.0)
    expected = torch.tensor([1 - math.exp(-0.5), math.exp(-0.5)])
    torch.testing.assert_close(seen.weights, expected.expand(rays, 2), rtol=1e-6, atol=1e-7)


def test_no_samples_at_all_leave_the_background():
    t = torch.ones(3, 4)
    nothing = pack(torch.zeros(3, 4, dtype=torch.bool), t, t)
    nothing, values = in_sight(nothing, 3, lambda part: pytest.fail("there is nothing to look at"))
    assert values is None
    pixels, _ = composite_packed(nothing, torch.zeros(0), torch.zeros(0, 3), t, torch.full((3,), 9.0), 0.25)
    assert pixels.rgb.eq(0.25).all()
    assert pixels.depth.eq(9).all()
    assert not pixels.weights.any()


@pytest.mark.parametrize("density", [0.0, 3.0, 30.0, 3000.0])
def test_what_is_in_sight_against_a_loop_over_rays(density):
    """All samples that light comes to, at most a part's behind them, and nothing else; each looked at once."""
    rays, count = 40, 100
    generator = torch.Generator().manual_seed(0)
    chosen = torch.rand(rays, count, generator=generator) < 0.7
    chosen[3] = False
    sigma = (
        density * torch.rand(rays, count, generator=generator) * (torch.rand(rays, count, generator=generator) < 0.2)
    )
    t = torch.arange(count).expand(rays, count) / count
    every = pack(chosen, t, torch.full_like(t, 0.05))
    looked = []

    def look(part):
        looked.extend(part.index.tolist())
        return sigma.view(-1)[part.index], part.index[:, None] + torch.zeros(2)

    samples, values = in_sight(every, rays, look)
    expected = []
    for ray in range(rays):
        light, column = 1.0, chosen[ray].nonzero()[:, 0].tolist()
        start, size = 0, TOGETHER
        while column[start:] and light > DARK:
            part = column[start : start + size]
            expected += [ray * count + c for c in part]
            light *= math.exp(-sum(0.05 * sigma[ray, c].item() for c in part))
            start, size = start + size, start + size
    assert samples.index.tolist() == expected
    assert sorted(looked) == expected
    assert torch.equal(values, samples.index[:, None] + torch.zeros(2))
    assert torch.equal(t.reshape(-1)[samples.index], samples.t)
    assert (len(expected) < len(every.ray)) == (density > 3)


def filled(share: float) -> Room:
    """A room that has been told of this share."""
    room = Room()
    room.note(torch.tensor(round(1e6 * share)), 1_000_000)
    room.settle()
    return room


def seen_with(room, chosen, t, delta, sigma, rgb):
    samples = pack(chosen, t, delta, room)
    values = sigma.view(-1)[samples.index], rgb.view(-1, 3)[samples.index]
    return samples, composite_packed(samples, *values, t, torch.full((len(t),), FAR), 0.7)[0]


def many(rays):
    generator = torch.Generator().manual_seed(1)
    t = (1 + 4 * torch.rand(rays, SAMPLES, generator=generator)).sort(dim=1).values
    delta = torch.rand(rays, SAMPLES, generator=generator)
    chosen = torch.rand(rays, SAMPLES, generator=generator) < 0.3
    chosen[5], chosen[-1] = False, True
    sigma, rgb = torch.rand(rays, SAMPLES, generator=generator), torch.rand(rays, SAMPLES, 3, generator=generator)
    return chosen, t, delta, sigma, rgb


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_space_to_spare_changes_nothing(share):
    scene = many(400)
    (exact, expected), (samples, pixels) = seen_with(None, *scene), seen_with(filled(share), *scene)
    n = len(exact.ray)
    assert len(samples.ray) > n
    for a, b in zip(samples, exact, strict=True):
        torch.testing.assert_close(a[:n], b, rtol=0, atol=0)
    assert (samples.delta[n:] == 0).all()
    assert (samples.ray.diff() >= 0).all()
    for a, b in zip(pixels, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_a_ray_without_space_is_empty_and_teaches_nothing():
    chosen, t, delta, sigma, rgb = many(400)
    sigma.requires_grad_(), rgb.requires_grad_()
    room = filled(0.1)
    samples, pixels = seen_with(room, chosen, t, delta, sigma, rgb)
    size = room.rows(chosen.numel())
    assert len(samples.ray) == size < int(chosen.sum())
    fits = chosen.sum(1).cumsum(0) <= size
    assert 50 < fits.sum() < 350
    _, expected = seen_with(None, chosen & fits[:, None], t, delta, sigma, rgb)
    for a, b in zip(pixels, expected, strict=True):
        torch.testing.assert_close(a, b)
    assert (pixels.opacity[~fits] == 0).all()
    gradients = torch.autograd.grad(pixels.rgb.square().sum(), (sigma, rgb))
    expected = torch.autograd.grad(expected.rgb.square().sum(), (sigma, rgb))
    for a, b in zip(gradients, expected, strict=True):
        torch.testing.assert_close(a, b)
        assert not a[~fits].any()


def test_the_next_step_has_space():
    chosen, t, delta, *_ = many(400)
    room = filled(0.1)
    pack(chosen, t, delta, room=room)
    room.settle()
    assert int(chosen.sum()) <= len(pack(chosen, t, delta, room=room).ray) < 0.5 * chosen.numel()


@pytest.mark.parametrize("room", [None, Room()])
def test_no_ray_is_no_sample(room):
    t = torch.zeros(0, SAMPLES)
    assert len(pack(t > 0, t, t, room=room).ray) == 0
