"""Samples of rays against the distributions that they are drawn from."""

import numpy as np
import pytest
import torch

from nerf_dfa.rendering.sampling import inverse_transform, refine, stratified

NEAR, FAR, COUNT = 2.0, 6.0, 9


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def bounds(rays):
    return torch.full((rays,), NEAR, dtype=torch.float64), torch.full((rays,), FAR, dtype=torch.float64)


def grid(lindisp):
    """The grid by the closed form, as NumPy has it."""
    return 1 / np.linspace(1 / NEAR, 1 / FAR, COUNT) if lindisp else np.linspace(NEAR, FAR, COUNT)


def strata(lindisp):
    t = grid(lindisp)
    edges = np.concatenate([[NEAR], (t[1:] + t[:-1]) / 2, [FAR]])
    return edges[:-1], edges[1:]


@pytest.mark.parametrize("lindisp", [False, True])
def test_the_deterministic_grid_is_equal_in_depth_or_disparity_and_holds_both_ends(lindisp):
    t = stratified(*bounds(2), COUNT, lindisp)
    np.testing.assert_allclose(t, np.stack([grid(lindisp)] * 2), rtol=1e-12)
    np.testing.assert_allclose(t[:, [0, -1]], [[NEAR, FAR]] * 2, rtol=1e-12)


def test_every_ray_has_the_grid_of_its_own_bounds():
    t = stratified(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 5.0]), 5)
    assert t.tolist() == [[0.0, 0.25, 0.5, 0.75, 1.0], [1.0, 2.0, 3.0, 4.0, 5.0]]


@pytest.mark.parametrize("lindisp", [False, True])
def test_each_random_sample_is_uniform_in_its_own_stratum(lindisp):
    rays = 20_000
    t = stratified(*bounds(rays), COUNT, lindisp, seeded()).numpy()
    lower, upper = strata(lindisp)
    assert (t >= lower - 1e-12).all()
    assert (t <= upper + 1e-12).all()
    assert (np.diff(t, axis=-1) > 0).all()
    width = upper - lower
    # Mean (a + b) / 2 and standard deviation (b - a) / sqrt(12), to five standard errors.
    assert (np.abs(t.mean(0) - (lower + upper) / 2) < 5 * width / np.sqrt(12 * rays)).all()
    np.testing.assert_allclose(t.std(0), width / np.sqrt(12), rtol=0.03)


EDGES = np.array([0.0, 0.5, 0.7, 1.5, 3.0, 3.2])
WEIGHTS = np.array([0.2, 0.05, 0.0, 0.4, 0.15])  # they need not sum to one
CDF = np.concatenate([[0.0], np.cumsum(WEIGHTS) / WEIGHTS.sum()])


def draw(weights, count, generator=None, edges=EDGES):
    return inverse_transform(torch.tensor(edges)[None], torch.tensor(weights)[None], count, generator)[0].numpy()


def test_random_samples_follow_the_piecewise_constant_density():
    n = 100_000
    samples = np.sort(draw(WEIGHTS, n, seeded()))
    exact = np.interp(samples, EDGES, CDF)
    kolmogorov_smirnov = np.abs(exact - np.arange(n) / n).max()
    assert kolmogorov_smirnov < 1.63 / np.sqrt(n)  # what 99 % of all draws of the right distribution stay below
    mass, share = WEIGHTS / WEIGHTS.sum(), np.histogram(samples, EDGES)[0] / n
    np.testing.assert_allclose(share, mass, atol=5 * 0.5 / np.sqrt(n))


@pytest.mark.parametrize("count", [2, 5, 64])
def test_without_a_generator_the_samples_are_the_quantiles(count):
    # Large weights: what keeps zero weights from dividing by zero then has no share.
    samples = draw(WEIGHTS * 1e8 + 1.0, count)
    cdf = np.concatenate([[0.0], np.cumsum(WEIGHTS * 1e8 + 1.0)])
    np.testing.assert_allclose(samples, np.interp(np.linspace(0, 1, count), cdf / cdf[-1], EDGES), atol=1e-6)


def test_zero_weights_give_uniform_samples():
    edges = np.linspace(NEAR, FAR, 8)
    np.testing.assert_allclose(draw(np.zeros(7), 33, edges=edges), np.linspace(NEAR, FAR, 33), rtol=1e-12)


@pytest.mark.parametrize("k", range(5))
def test_a_one_hot_weight_puts_the_samples_uniformly_into_that_bin(k):
    weights = np.eye(5)[k]
    n = 20_000
    samples = draw(weights, n, seeded())
    inside = samples[(samples >= EDGES[k]) & (samples <= EDGES[k + 1])]
    assert len(inside) >= n - 10
    width = EDGES[k + 1] - EDGES[k]
    assert inside.mean() == pytest.approx((EDGES[k] + EDGES[k + 1]) / 2, abs=5 * width / np.sqrt(12 * n))
    quantiles = draw(weights, 11)[1:-1]
    np.testing.assert_allclose(quantiles, EDGES[k] + width * np.linspace(0, 1, 11)[1:-1], atol=1e-3)


@pytest.mark.parametrize("seed", [None, 0])
def test_samples_stay_inside_the_edges_for_any_weights(seed):
    generator = seeded(1)
    edges = torch.rand(500, 65, generator=generator).sort(-1).values * 4 + 2
    weights = torch.exp(torch.randn(500, 64, generator=generator) * 8)
    weights[::3] *= torch.rand(167, 64, generator=generator) < 0.1
    samples = inverse_transform(edges, weights, 50, None if seed is None else seeded(seed))
    assert samples.isfinite().all()
    assert (samples >= edges[:, :1]).all()
    assert (samples <= edges[:, -1:]).all()
    if seed is None:
        assert (samples.diff(dim=-1) >= 0).all()


@pytest.mark.parametrize("seed", [None, 0])
def test_refined_samples_are_ascending_and_hold_the_coarse_ones(seed):
    t = stratified(*bounds(6), COUNT, generator=seeded())
    weights = torch.rand(6, COUNT, dtype=torch.float64, generator=seeded(2)).requires_grad_()
    fine = refine(t, weights, 20, None if seed is None else seeded(seed))
    assert fine.shape == (6, COUNT + 20)
    assert not fine.requires_grad
    assert (fine.diff(dim=-1) >= 0).all()
    for ray in range(6):
        assert set(t[ray].tolist()) <= set(fine[ray].tolist())


@pytest.mark.parametrize("k", [1, 4, COUNT - 2])
def test_refined_samples_gather_around_the_coarse_sample_that_has_the_weight(k):
    t = stratified(*bounds(1), COUNT)
    weights = torch.eye(COUNT, dtype=torch.float64)[k : k + 1]
    fine = refine(t, weights, 100, seeded())[0].tolist()
    new = [x for x in fine if x not in t[0].tolist()]
    half = (FAR - NEAR) / (COUNT - 1) / 2
    assert len(new) == 100
    assert sum(abs(x - t[0, k].item()) <= half for x in new) >= 99


def test_the_same_seed_gives_the_same_samples():
    near, far = bounds(3)
    t = stratified(near, far, COUNT)
    weights = torch.rand(3, COUNT, dtype=torch.float64)
    for sample in (lambda g: stratified(near, far, COUNT, generator=g), lambda g: refine(t, weights, 7, g)):
        assert torch.equal(sample(seeded(5)), sample(seeded(5)))
        assert not torch.equal(sample(seeded(5)), sample(seeded(6)))
