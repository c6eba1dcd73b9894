"""The hashed projection against the matrix that it stands for."""

import pytest
import torch

from nerf_dfa.language.projection import Hashed
from nerf_dfa.learning.feedback import SharedFeedback


def matrix(projection):
    """B, output by output."""
    rows = [int(projection.signs[t]) * projection.spread[t % projection.buckets] for t in range(projection.error_width)]
    return torch.stack(rows)


@pytest.mark.parametrize("c", [5, 8, 21, 64])
def test_product_with_its_matrix(c):
    projection = Hashed(c, 24, 8)
    error = torch.randn(3, 7, c, dtype=torch.float64)
    expected = error @ matrix(projection).double()
    for width in (24, 13, 1):
        torch.testing.assert_close(projection(error, width), expected[..., :width], rtol=0, atol=1e-12)


def test_is_like_the_uniform_matrix():
    dense = matrix(Hashed(4000, 64, 512)) * 64**0.5
    assert dense.abs().max() <= 1
    assert dense.mean().item() == pytest.approx(0, abs=0.01)
    assert dense.square().mean().item() == pytest.approx(1 / 3, abs=0.01)
    assert torch.linalg.matrix_rank(dense) == 64


def test_signals_of_the_feedback():
    feedback = SharedFeedback(Hashed(40, 16, 8), "none")
    error = torch.randn(5, 40)
    message = feedback.message(error)
    for width in (16, 8):
        expected = error @ matrix(feedback.projection)[:, :width]
        torch.testing.assert_close(feedback.project(message, 0, width), expected)


def test_lives_with_the_model():
    feedback, other = (SharedFeedback(Hashed(40, 16, 8), "none") for _ in range(2))
    other.load_state_dict(feedback.state_dict())
    assert torch.equal(matrix(other.projection), matrix(feedback.projection))
