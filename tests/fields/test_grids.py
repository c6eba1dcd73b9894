"""Feature grids against trilinear interpolation by a loop and a hash in integers without end."""

import itertools
import math

import numpy as np
import pytest
import torch

from nerf_dfa.fields.grids import FeatureGrids, Level, level_resolutions, make_levels, paired, row_numbers

PRIMES = (1, 2654435761, 805459861)


def row_by_hand(level, corner):
    """Row of a corner (x, y, z) of a grid, in Python's integers."""
    nx, ny, nz = level.corners
    x, y, z = (int(c) for c in corner)
    if nx * ny * nz <= level.rows:
        return level.first_row + x + nx * (y + ny * z)
    return level.first_row + ((x * PRIMES[0]) ^ (y * PRIMES[1]) ^ (z * PRIMES[2])) % level.rows


def features_by_hand(table, levels, point):
    """At one point, clamped to [-1, 1]^3, in float64."""
    found = []
    for level in levels:
        cells = np.array(level.corners) - 1
        place = (np.clip(point, -1, 1) + 1) / 2 * cells
        low = np.minimum(np.floor(place), cells - 1)
        value = np.zeros(table.shape[1])
        for corner in itertools.product((0, 1), repeat=3):
            weight = math.prod(f if up else 1 - f for f, up in zip(place - low, corner, strict=True))
            value += weight * table[row_by_hand(level, low + corner)]
        found.append(value)
    return np.concatenate(found)


def naive(grids, points):
    """The same by indexing, for autograd."""
    rows, weights = grids.corners(points)
    return (grids.table[rows.long()] * weights[..., None]).sum(-2).flatten(1)


def some_points(count=60):
    """Random ones, also outside the cube, and all places where faces, edges and the middle are."""
    special = torch.tensor(list(itertools.product((-1.0, 0.0, 1.0), repeat=3)), dtype=torch.float64)
    return torch.cat([torch.rand(count, 3, dtype=torch.float64) * 2.4 - 1.2, special])


@pytest.mark.parametrize(
    ("resolutions", "features", "depth", "log2_table"),
    [([3, 5], 2, 1.0, 10), ([4, 9, 33], 4, 1.0, 8), ([6, 12], 3, 0.4, 8), ([7], 1, 0.1, 4)],
)
def test_features_are_trilinear_in_every_grid(resolutions, features, depth, log2_table):
    grids = FeatureGrids(resolutions, features, depth, log2_table).double()
    points = some_points()
    table = grids.table.detach().numpy()
    expected = np.stack([features_by_hand(table, grids.levels, p) for p in points.numpy()])
    np.testing.assert_allclose(grids(points).detach(), expected, atol=1e-12)
    assert grids.width == features * len(resolutions)


def test_single_precision_and_leading_dimensions():
    grids = FeatureGrids([5, 40], 4, log2_table=10)
    points = some_points(45).float()
    expected = grids.double()(points.double()).float()
    assert torch.allclose(grids.float()(points.view(2, -1, 3)).flatten(0, 1), expected, atol=1e-5)
    assert grids(points.view(2, -1, 3)).shape == (2, 36, 8)


def test_depth_is_resolution_along_z_and_what_does_not_fit_is_hashed():
    levels = make_levels([4, 8, 16, 32], depth=0.25, most_rows=1 << 10)
    assert [level.corners for level in levels] == [(4, 4, 2), (8, 8, 2), (16, 16, 4), (32, 32, 8)]
    assert [level.rows for level in levels] == [32, 128, 1024, 1024]
    assert [level.first_row for level in levels] == [0, 32, 160, 1184]
    assert [level.hashed for level in levels] == [False, False, False, True]


def test_every_corner_of_a_dense_grid_has_a_row_of_its_own():
    grids = FeatureGrids([3, 6], 2, depth=0.5)
    found = set()
    for level in grids.levels:
        low = torch.cartesian_prod(*(torch.arange(n - 1, dtype=torch.int32) for n in level.corners)).T
        found |= set(row_numbers(level, low).flatten().tolist())
    assert found == set(range(3 * 3 * 2 + 6 * 6 * 3)) == set(range(len(grids.table)))


def test_the_hash_is_that_of_integers_without_end():
    level = Level((1 << 20, 1 << 20, 1 << 20), first_row=77, rows=1 << 19)
    low = torch.randint((1 << 20) - 1, (3, 50), dtype=torch.int32)
    rows = row_numbers(level, low)
    for z, y, x in itertools.product((0, 1), repeat=3):
        corners = (low + torch.tensor([[x], [y], [z]])).T.tolist()
        assert rows[z, y, x].tolist() == [row_by_hand(level, corner) for corner in corners]


@pytest.mark.parametrize("features", [1, 2, 3, 4])
def test_the_gradient_is_that_of_plain_indexing(features):
    grids = FeatureGrids([4, 11], features, log2_table=8).double()
    points = some_points().requires_grad_()
    signal = torch.randn(len(points), grids.width, dtype=torch.float64)
    inputs = (grids.table, points)
    got = torch.autograd.grad(grids(points), inputs, signal)
    expected = torch.autograd.grad(naive(grids, points), inputs, signal)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_the_gradient_is_that_of_finite_differences():
    grids = FeatureGrids([3, 6], 2, log2_table=6).double()
    points = (torch.rand(4, 3, dtype=torch.float64) * 1.8 - 0.9).requires_grad_()

    def read(table, points):
        return torch.func.functional_call(grids, {"table": table}, (points,))

    assert torch.autograd.gradcheck(read, (grids.table, points))


def test_in_parts_or_at_once():
    grids = FeatureGrids([4, 30], 4, log2_table=9)
    points, signal = some_points().float(), torch.randn(87, 8)
    at_once = grids(points)
    at_once.backward(signal)
    gradient, grids.table.grad = grids.table.grad, None
    parts = [grids(part) for part in points.split(20)]
    for part, s in zip(parts, signal.split(20), strict=True):
        part.backward(s)
    assert torch.equal(torch.cat(parts), at_once)
    torch.testing.assert_close(grids.table.grad, gradient)


def test_a_place_that_is_no_number_reads_none_and_harms_no_other():
    grids = FeatureGrids([4, 30], 2, log2_table=9)
    points = torch.tensor([[0.1, 0.2, 0.3], [0.1, math.nan, 0.3], [math.inf, -math.inf, 0.3]])
    features = grids(points)
    assert features[1].isnan().all()
    assert torch.equal(features[2], grids(torch.tensor([[1.0, -1.0, 0.3]]))[0])
    assert torch.equal(features[0], grids(points[:1])[0])


def test_no_points():
    grids = FeatureGrids([4, 30], 2, log2_table=9)
    features = grids(torch.zeros(0, 3))
    assert features.shape == (0, 4)
    features.sum().backward()
    assert not grids.table.grad.any()


def test_a_checkpoint_holds_the_table_alone():
    grids = FeatureGrids([4, 9], 2)
    assert {name: tuple(x.shape) for name, x in grids.state_dict().items()} == {"table": (64 + 729, 2)}


def test_pairs_are_complex_numbers_of_the_same_memory():
    x = torch.arange(12.0).view(3, 4)
    assert paired(x)[1].tolist() == [4 + 5j, 6 + 7j]
    assert paired(x).data_ptr() == x.data_ptr()
    assert paired(x[:, :3]).shape == (3, 3)


@pytest.mark.parametrize(
    ("arguments", "expected"), [((16, 64, 3), [16, 32, 64]), ((16, 96, 1), [96]), ((8, 64, 4), [8, 16, 32, 64])]
)
def test_resolutions_are_in_geometric_progression(arguments, expected):
    assert level_resolutions(*arguments) == expected
