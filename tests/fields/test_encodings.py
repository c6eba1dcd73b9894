"""The positional encoding against an explicit loop in NumPy."""

import numpy as np
import pytest
import torch

from nerf_dfa.fields.encodings import encoded_width, positional_encoding


def by_loop(x, frequencies):
    columns = [x[:, i] for i in range(x.shape[1])]
    for k in range(frequencies):
        for wave in (np.sin, np.cos):
            for i in range(x.shape[1]):
                columns.append(wave(2**k * x[:, i]))
    return np.stack(columns, axis=1)


@pytest.mark.parametrize(("d", "frequencies", "width"), [(3, 10, 63), (3, 4, 27), (2, 1, 6), (1, 5, 11), (3, 0, 3)])
def test_encoding_is_the_input_then_sine_and_cosine_of_each_octave(d, frequencies, width):
    x = np.random.default_rng(0).uniform(-4, 4, (20, d))
    encoded = positional_encoding(torch.tensor(x), frequencies)
    assert encoded.shape == (20, width)
    assert encoded_width(d, frequencies) == width
    np.testing.assert_allclose(encoded, by_loop(x, frequencies), atol=1e-11)


def test_order_of_the_blocks():
    encoded = positional_encoding(torch.tensor([0.3, -0.1]), 2)
    x, y = 0.3, -0.1
    expected = [x, y, np.sin(x), np.sin(y), np.cos(x), np.cos(y)]
    expected += [np.sin(2 * x), np.sin(2 * y), np.cos(2 * x), np.cos(2 * y)]
    assert encoded.tolist() == pytest.approx(expected, abs=1e-6)


def test_leading_dimensions_are_kept():
    x = torch.randn(2, 5, 4, 3)
    assert torch.equal(positional_encoding(x, 3).reshape(-1, 21), positional_encoding(x.reshape(-1, 3), 3))


@pytest.mark.parametrize("shape", [(0, 3), (4, 0, 3)])
def test_no_points_are_encoded_as_none(shape):
    assert positional_encoding(torch.empty(shape), 2).shape == (*shape[:-1], 15)
