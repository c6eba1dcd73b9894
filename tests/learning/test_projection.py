"""Projections and the feedback made of them, against explicit matrices."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from nerf_dfa.learning import Projection, make_rule
from nerf_dfa.learning.feedback import LearnedFeedback
from nerf_dfa.learning.projection import BLOCK, PROJECTIONS, OnDevice, make_projection

KINDS = list(PROJECTIONS)


def matrix_of(projection, width):
    """The projection's matrix: what it makes of the unit vectors."""
    return projection(torch.eye(projection.error_width, dtype=torch.float64), width)


@pytest.mark.parametrize("kind", KINDS)
def test_a_projection_is_a_product_with_one_matrix(kind):
    projection = make_projection(kind, 5, 21)
    matrix = matrix_of(projection, 21)
    error = torch.randn(2, 3, 5, dtype=torch.float64)
    expected = torch.einsum("abc,cw->abw", error, matrix)
    torch.testing.assert_close(projection(error, 21), expected)
    torch.testing.assert_close(projection(error, 13), expected[..., :13])
    assert projection(error.bfloat16(), 13).dtype == torch.bfloat16


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_projection_is_the_same_in_another_process(kind):
    first = make_projection(kind, 5, 21)
    second = make_projection(kind, 5, 21)
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(matrix_of(second, 21), matrix_of(first, 21), rtol=0, atol=0)


@pytest.mark.parametrize(("kind", "variance"), [("uniform", 1 / 3), ("normal", 1), ("binary", 1), ("sparse", 1)])
def test_entries_have_mean_zero_and_their_variance(kind, variance):
    matrix = matrix_of(make_projection(kind, 4, 20_000), 20_000)
    assert matrix.mean().item() == pytest.approx(0, abs=0.02)
    assert matrix.var().item() == pytest.approx(variance, rel=0.03)


@pytest.mark.parametrize(("c", "width"), [(4, 32), (32, 4)])
def test_an_orthogonal_matrix_has_orthogonal_rows_or_columns(c, width):
    matrix = matrix_of(make_projection("orthogonal", c, width), width)
    gram = matrix @ matrix.T if c < width else matrix.T @ matrix
    torch.testing.assert_close(gram, torch.eye(4, dtype=torch.float64) * 32, atol=1e-4, rtol=0)


def test_a_binary_matrix_takes_one_bit_an_entry():
    projection = make_projection("binary", 4, 100)
    assert set(matrix_of(projection, 100).unique().tolist()) == {-1.0, 1.0}
    (packed,) = projection.state_dict().values()
    assert packed.nbytes == 4 * 13


@pytest.mark.parametrize("k", [1, 3])
def test_a_sparse_matrix_has_k_entries_in_every_column(k):
    matrix = matrix_of(make_projection("sparse", 5, 40, k=k), 40)
    assert ((matrix != 0).sum(0) == k).all()


def test_a_seeded_matrix_is_not_kept_and_does_not_depend_on_the_width():
    projection = make_projection("seeded", 3, BLOCK + 7)
    assert sum(t.nbytes for t in projection.state_dict().values()) == 8
    wide = matrix_of(projection, BLOCK + 7)
    torch.testing.assert_close(matrix_of(projection, BLOCK + 2), wide[:, : BLOCK + 2], rtol=0, atol=0)
    assert wide.abs().max() <= 1


def test_a_seed_is_read_once_because_a_gpu_waits_for_it_and_again_when_another_is_loaded():
    class Reads(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.count += function is torch.ops.aten._local_scalar_dense.default
            return function(*args, **(kwargs or {}))

    one, other = (make_projection("seeded", 3, 8) for _ in range(2))
    assert not torch.equal(matrix_of(one, 8), matrix_of(other, 8))
    with Reads() as reads:
        matrix_of(one, 8)
        assert reads.count == 0
        one.load_state_dict(other.state_dict())
        again = matrix_of(one, 8)
        assert reads.count == 1
    torch.testing.assert_close(again, matrix_of(other, 8), rtol=0, atol=0)


def test_a_projection_on_another_device_stays_there_and_works():
    inner = make_projection("uniform", 3, 8)
    projection = OnDevice(inner, "cpu").to(torch.float64)
    assert inner.matrix.dtype == torch.float32  # it did not move along
    error = torch.randn(4, 3)
    torch.testing.assert_close(projection(error, 8), error @ inner.matrix)


class Mirror(Projection):
    """A projector of a user's own: repeats the error three times, and counts how often it is asked."""

    calls = 0

    def forward(self, error, width):
        self.calls += 1
        return error.repeat_interleave(3, dim=-1)[..., :width]


def test_a_projector_of_ones_own_takes_the_place_of_the_matrix():
    projector = Mirror(2, 6)
    rule = make_rule("dfa", 2, [6, 6, 4], feedback=projector, normalisation="none")
    hidden = [torch.zeros(3, w, requires_grad=True) for w in (6, 6, 4)]
    y = torch.randn(3, 2, requires_grad=True)
    tape = rule.tape()
    for h in hidden:
        tape.hidden(h)
    error = torch.randn(3, 2)
    tape.output(y).backward(error)
    a, b = error[:, :1], error[:, 1:]
    torch.testing.assert_close(hidden[0].grad, torch.cat([a, a, a, b, b, b], 1))
    torch.testing.assert_close(hidden[2].grad, torch.cat([a, a, a, b], 1))
    assert projector.calls == 1  # for all layers


@pytest.mark.parametrize("c", [2, 20])
@pytest.mark.parametrize(
    ("normalisation", "scale"),
    [
        ("layer", lambda c: 6**-0.5),
        ("max", lambda c: 9**-0.5),
        ("full", lambda c: (6 * c) ** -0.5),
        ("none", lambda c: 1),
    ],
)
def test_signals_are_scaled_by_the_normalisation(normalisation, scale, c):
    feedback = make_rule("dfa", c, [9, 6], normalisation=normalisation).feedback
    error, scale = torch.randn(5, c), scale(c)
    signal = feedback.project(feedback.message(error), 1, 6)
    torch.testing.assert_close(signal, scale * error @ feedback.projection.matrix[:, :6])
    own = make_rule("dfa", c, [9, 6], normalisation=normalisation, shared=False).feedback
    signal = own.project(own.message(error), 1, 6)
    torch.testing.assert_close(signal, scale * error @ own.projections[1].matrix)


def test_shared_feedback_keeps_one_matrix_and_independent_feedback_one_a_layer():
    count = {
        shared: sum(b.numel() for b in make_rule("dfa", 3, [8, 6, 4], shared=shared).buffers())
        for shared in (True, False)
    }
    assert count == {True: 3 * 8, False: 3 * (8 + 6 + 4)}
    feedback = make_rule("dfa", 3, [8, 8], shared=False).feedback
    a, b = (feedback.project(feedback.message(torch.ones(1, 3)), layer, 8) for layer in range(2))
    assert not torch.equal(a, b)


def test_learned_feedback_gets_the_gradient_of_an_output_layer():
    feedback = LearnedFeedback(3, [5, 4])
    hidden = [torch.randn(2, 6, w) for w in (5, 4)]
    error = torch.randn(2, 6, 3)
    for layer, h in enumerate(hidden):
        (gradient,) = feedback.gradients(feedback.message(error), layer, h)
        torch.testing.assert_close(gradient, torch.einsum("abc,abw->cw", error, h))


def test_kolen_pollack_feedback_comes_to_agree_with_the_weights():
    """Equal updates and equal decay: the difference shrinks by the decay in every step, whatever the data."""
    torch.manual_seed(0)
    first, head = torch.nn.Linear(4, 8), torch.nn.Linear(8, 3)
    rule = make_rule("dkp", 3, [8])
    weights = [*first.parameters(), *head.parameters(), *rule.parameters()]
    optimizer = torch.optim.SGD(weights, lr=0.1, weight_decay=0.5)
    (matrix,) = rule.feedback.matrices
    before = (matrix - head.weight).norm()
    for _ in range(40):
        x = torch.randn(16, 4)
        tape = rule.tape()
        y = tape.output(head(tape.hidden(torch.tanh(first(x)))))
        optimizer.zero_grad()
        (y - x[:, :3]).square().mean().backward()
        optimizer.step()
    assert ((matrix - head.weight).norm() / before).item() == pytest.approx(0.95**40, rel=1e-3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: make_rule("dfa", 3, [4], feedback="magic"), "unknown feedback 'magic'; there are uniform, normal"),
        (lambda: make_rule("dfa", 3, [4], feedback="sparse", k=4), "1 to 3 entries, got k = 4"),
        (lambda: make_rule("dfa", 3, [4], normalisation="magic"), "unknown normalisation 'magic'"),
        (lambda: make_rule("dfa", 3, [4], feedback=Mirror(3, 4), shared=False), "leave shared = True"),
        (lambda: make_rule("fdfa", 3, [4], every=0), "every = 0"),
        (lambda: make_rule("modular", 3, [4, 4], modules=[3]), r"modules = \[3\] have to share out the 2"),
    ],
)
def test_wrong_options_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_more_points_than_feedback_was_made_for_are_named():
    rule = make_rule("dfa", 2, [4], shared=False)
    tape, h = rule.tape(), torch.zeros(3, 4, requires_grad=True)
    tape.hidden(h)
    tape.hidden(h * 1)
    with pytest.raises(ValueError, match="feedback point 1: the feedback was made for 1 hidden layers"):
        tape.output(torch.zeros(3, 2, requires_grad=True)).sum().backward()
