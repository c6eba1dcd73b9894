"""Every kind of attention against its formula, position by position."""

import math

import pytest
import torch
import torch.nn.functional as F

from nerf_dfa.language.attention import ATTENTIONS, fixed_patterns

WIDTH, HEADS, CHUNK = 12, 3, 9


def make(kind):
    return ATTENTIONS[kind](WIDTH, HEADS, CHUNK, 0.0).double()


def weighted(attention, kind, x):
    """Weights (heads, i, j) of one text x (length, width), by loops over positions; then the layer's output."""
    parts = (x @ attention.project.weight.T + attention.project.bias).split(WIDTH, dim=1)
    d, length = WIDTH // HEADS, len(x)
    out = torch.zeros(length, WIDTH, dtype=x.dtype)
    for head in range(HEADS):
        cut = slice(head * d, (head + 1) * d)
        for i in range(length):
            if kind == "dot":
                logits = [parts[0][i, cut] @ parts[1][j, cut] / math.sqrt(d) for j in range(i + 1)]
            elif kind == "dense":
                logits = [F.relu(parts[0][i, cut]) @ attention.keys[head, j] for j in range(i + 1)]
            elif kind == "random":
                logits = [attention.logits[head, i, j] for j in range(i + 1)]
            else:
                logits = [attention.patterns[head, i, j].log() for j in range(i + 1)]
            weights = torch.stack(logits).softmax(0)
            out[i, cut] = sum(weight * parts[-1][j, cut] for j, weight in enumerate(weights))
    return out @ attention.out.weight.T + attention.out.bias


@pytest.mark.parametrize("length", [CHUNK, 5])
@pytest.mark.parametrize("kind", ATTENTIONS)
def test_against_explicit_weights(kind, length):
    attention, x = make(kind), torch.randn(2, length, WIDTH, dtype=torch.float64)
    expected = torch.stack([weighted(attention, kind, text) for text in x])
    # The fixed patterns are kept in single precision.
    torch.testing.assert_close(attention(x), expected, atol=1e-6 if kind == "fixed" else 1e-12, rtol=0)


@pytest.mark.parametrize("kind", ATTENTIONS)
def test_later_positions_change_nothing(kind):
    attention, x = make(kind), torch.randn(1, CHUNK, WIDTH, dtype=torch.float64)
    for place in range(1, CHUNK):
        y = x.clone()
        y[:, place:] = torch.randn_like(y[:, place:])
        a, b = attention(x), attention(y)
        assert torch.equal(a[:, :place], b[:, :place])
        assert not torch.allclose(a[:, place:], b[:, place:])


@pytest.mark.parametrize("kind", ATTENTIONS)
def test_gradients_in_float64(kind):
    attention = ATTENTIONS[kind](4, 2, 3, 0.0).double()
    x = torch.randn(1, 3, 4, dtype=torch.float64, requires_grad=True)
    names = dict(attention.named_parameters())

    def function(x, *values):
        return torch.func.functional_call(attention, dict(zip(names, values, strict=True)), x)

    assert torch.autograd.gradcheck(function, (x, *names.values()))


def test_fixed_patterns_by_hand():
    patterns = fixed_patterns(3)
    expected = [
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[1, 0, 0], [1, 0, 0], [0, 1, 0]],
        [[1, 0, 0], [1 / 9, 8 / 9, 0], [1 / 36, 8 / 36, 27 / 36]],
        [[1, 0, 0], [8 / 9, 1 / 9, 0], [27 / 36, 8 / 36, 1 / 36]],
    ]
    torch.testing.assert_close(patterns, torch.tensor(expected))
    assert not fixed_patterns(50).triu(1).any()
    torch.testing.assert_close(fixed_patterns(50).sum(-1), torch.ones(4, 50))
