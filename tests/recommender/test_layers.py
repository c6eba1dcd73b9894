"""Layers against NumPy and brute force."""

from itertools import combinations

import numpy as np
import pytest
import torch
from torch import nn

from nerf_dfa.learning.tapes import Tape
from nerf_dfa.recommender.layers import MLP, SMALLEST, Cross, FirstOrder, Interacting, Logarithms, Powers, pairwise


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_pairwise_is_the_sum_over_pairs():
    x = torch.randn(5, 7, 4)
    expected = [sum(float(row[i] @ row[j]) for i, j in combinations(range(7), 2)) for row in x]
    torch.testing.assert_close(pairwise(x)[:, 0], torch.tensor(expected))


def test_first_order_is_a_sum_of_weights():
    layer = FirstOrder(10)
    nn.init.normal_(layer.weights.weight)
    nn.init.normal_(layer.bias)
    fields = torch.tensor([[0, 4, 9], [1, 4, 7]])
    w = layer.weights.weight[:, 0]
    expected = [w[0] + w[4] + w[9] + layer.bias[0], w[1] + w[4] + w[7] + layer.bias[0]]
    torch.testing.assert_close(layer(fields)[:, 0], torch.stack(expected))


def test_cross_layer():
    layer = Cross(6)
    nn.init.normal_(layer.bias)
    first, x = torch.randn(2, 3, 6).unbind()
    w, b = layer.weight.weight.detach().numpy()[0], layer.bias.detach().numpy()
    expected = np.stack([np.outer(a, c) @ w + b + c for a, c in zip(first.numpy(), x.numpy(), strict=True)])
    np.testing.assert_allclose(layer(first, x).detach().numpy(), expected)


def test_logarithmic_layer_multiplies_powers():
    logarithms, layer = Logarithms(4).eval(), Powers(4, 3).eval()
    logarithms.norm.running_mean.normal_()
    logarithms.norm.running_var.uniform_(0.5, 2)
    x = torch.randn(5, 4, 2)
    x[0, 0] = 0
    magnitudes = np.maximum(np.abs(x.numpy()), SMALLEST)
    mean, var = logarithms.norm.running_mean.numpy(), logarithms.norm.running_var.numpy()
    powers = layer.powers.weight.detach().numpy()
    expected = np.empty((5, 3, 2))
    for row in range(5):
        for j in range(3):
            for d in range(2):
                scaled = [
                    (magnitudes[row, f, d] / np.exp(mean[f])) ** (powers[j, f] / np.sqrt(var[f] + 1e-5))
                    for f in range(4)
                ]
                expected[row, j, d] = np.prod(scaled) / np.sqrt(1 + 1e-5)
    np.testing.assert_allclose(layer(logarithms(x)).detach().numpy(), expected, rtol=1e-10)


def test_attention_is_that_of_torch():
    layer = Interacting(6, 8, 2)
    x = torch.randn(3, 5, 6)
    other = nn.MultiheadAttention(8, 2, bias=False, kdim=6, vdim=6, batch_first=True)
    with torch.no_grad():
        # torch projects queries of the output's width; ours are projected here, and its own projections are identities.
        other.q_proj_weight.copy_(torch.eye(8))
        other.k_proj_weight.copy_(layer.key.weight)
        other.v_proj_weight.copy_(layer.value.weight)
        other.out_proj.weight.copy_(torch.eye(8))
    attended = other(layer.query(x), x, x, need_weights=False)[0]
    torch.testing.assert_close(layer(x), torch.relu(attended + layer.shortcut(x)))


class Listed(Tape):
    def __init__(self):
        self.points = []

    def hidden(self, h):
        self.points.append(h)
        return h


@pytest.mark.parametrize("norm", ["batch", "layer", "none"])
def test_blocks_of_the_mlp(norm):
    mlp, tape = MLP(6, [5, 4], dropout=0.5, norm=norm), Listed()
    y = mlp(torch.randn(4000, 6), tape)
    assert [point.shape for point in tape.points] == [(4000, 5), (4000, 4)]
    assert y is tape.points[-1]
    assert (y >= 0).all()
    assert (y == 0).double().mean() == pytest.approx(0.75, abs=0.15)  # half by the ReLU, half of the rest dropped
    kinds = [type(module).__name__ for module in mlp.blocks[0]]
    assert kinds == ["Linear", {"batch": "BatchNorm1d", "layer": "LayerNorm", "none": "Identity"}[norm], *kinds[2:]]
    assert kinds[2:] == ["ReLU", "Dropout"]
