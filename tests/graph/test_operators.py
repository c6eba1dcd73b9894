"""Operators against their definitions with dense matrices and loops, and against torch_geometric's own."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("torch_geometric", reason="pip install torch_geometric")

import torch_geometric.typing
from torch_geometric.nn import ChebConv, GATConv, GCNConv, SplineConv

from nerf_dfa.graph.data import make_graph
from nerf_dfa.graph.models import GAT, GCN, Cheb, Spline
from nerf_dfa.graph.operators import FeatureLinear, Features, SplineSum, dropout


@pytest.fixture
def graph(small):
    return make_graph("small", small, row_normalised=True)


@pytest.fixture
def adjacency(small):
    a = torch.zeros(60, 60, dtype=torch.float64)
    a[small.edge_index[1], small.edge_index[0]] = 1  # row: target
    return a


def test_sparse_product_and_its_gradient_are_the_dense_ones():
    dense = torch.randn(7, 5, dtype=torch.float64) * (torch.rand(7, 5) < 0.4)
    dense[2] = dense[:, 3] = 0  # an empty row and an empty column
    layer = FeatureLinear(torch.randn(5, 4, dtype=torch.float64), bias=True)
    other = torch.randn(7, 4, dtype=torch.float64)
    features = Features.of(dense)
    torch.testing.assert_close(features.dense(), dense)
    y = layer(features)
    torch.testing.assert_close(y, dense @ layer.weight + layer.bias)
    (y * other).sum().backward()
    torch.testing.assert_close(layer.weight.grad, dense.T @ other)
    torch.testing.assert_close(layer.bias.grad, other.sum(0))


def test_dropout_of_features_is_that_of_their_matrix():
    dense = torch.rand(200, 50) * (torch.rand(200, 50) < 0.5)
    features = Features.of(dense)
    assert features.dropout(0.5, training=False) is features
    dropped = features.dropout(0.25, training=True).dense()
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], dense[kept] / 0.75)
    assert abs(kept.sum() / (dense != 0).sum() - 0.75) < 0.03
    torch.testing.assert_close(features.dense(), dense)


def test_dropout_is_torchs_draw_by_draw():
    x, (torchs, ours) = torch.randn(50, 30, requires_grad=True), ([], [])
    for results, function in ((torchs, F.dropout), (ours, dropout)):
        torch.manual_seed(0)
        y = function(x, 0.3, True)
        results += [y, *torch.autograd.grad(y.square().sum(), x), torch.rand(3)]
    for a, b in zip(torchs, ours, strict=True):
        assert torch.equal(a, b)
    assert dropout(x, 0.3, False) is x


def test_wrong_feature_size_is_named(graph):
    with pytest.raises(ValueError, match="the graph has 12 features, the network was made for 9"):
        GCN(9, 3)(graph)


def test_gcn_layer_is_its_definition(graph, adjacency):
    model = GCN(12, 3, "bp")
    a = adjacency + torch.eye(60)
    degrees = a.sum(1) ** -0.5
    expected = degrees[:, None] * a * degrees @ graph.features.dense().double() @ model.linear.weight.double()
    found = model.conv(model.linear(graph.features), graph.edges)
    torch.testing.assert_close(found, expected.float())
    theirs = GCNConv(12, 16)
    theirs.lin.weight.data = model.linear.weight.data.T
    torch.testing.assert_close(found, theirs(graph.features.dense(), graph.edges))


def test_cheb_layer_is_its_definition(graph, adjacency):
    model = Cheb(12, 3, "bp")
    first, second = model.linear.weight.double().split(16, dim=1)
    degrees = adjacency.sum(1)
    scale = torch.where(degrees > 0, degrees**-0.5, 0)
    laplacian = torch.eye(60) - scale[:, None] * adjacency * scale
    x = graph.features.dense().double()
    expected = x @ first + (2 * laplacian / 2 - torch.eye(60)) @ x @ second  # the largest eigenvalue taken as 2
    found = model.conv(model.linear(graph.features), graph.edges)
    torch.testing.assert_close(found, expected.float())
    theirs = ChebConv(12, 16, K=2)
    for lin, weight in zip(theirs.lins, (first, second), strict=True):
        lin.weight.data = weight.float().T
    torch.testing.assert_close(found, theirs(graph.features.dense(), graph.edges))


def test_gat_layer_is_its_definition(graph, adjacency):
    model = GAT(12, 3, "bp")
    conv = model.conv
    z = (graph.features.dense() @ model.linear.weight).view(60, 8, 8)
    score = (z * conv.att_dst).sum(-1)[:, None] + (z * conv.att_src).sum(-1)[None]  # (target, source, head)
    there = (adjacency + torch.eye(60)) > 0
    share = F.leaky_relu(score, 0.2).masked_fill(~there[..., None], -torch.inf).softmax(1)
    expected = torch.einsum("tsh,shd->thd", share, z).flatten(1)
    found = conv(model.linear(graph.features), graph.neighbours)
    torch.testing.assert_close(found, expected)
    theirs = GATConv(12, 8, heads=8)
    theirs.lin.weight.data = model.linear.weight.data.T
    theirs.att_src, theirs.att_dst = conv.att_src, conv.att_dst
    torch.testing.assert_close(found, theirs(graph.features.dense(), graph.edges))


@pytest.mark.parametrize("knots", [2, 4])
def test_spline_is_its_definition(graph, knots):
    """Edge by edge, with the basis of NumPy's linear interpolation."""
    x, width = graph.features.dense().double(), 3
    kernel, root = torch.randn(knots, 12, width).double(), torch.randn(12, width).double()
    operator = SplineSum(width, knots).double()
    operator.bias.data = torch.randn(width).double()
    found = operator(x @ torch.cat([*kernel, root], dim=1), graph.edges, graph.pseudo.double())
    sums, counts = torch.zeros(60, width).double(), torch.zeros(60).double()
    for (j, i), u in zip(graph.edges.T.tolist(), graph.pseudo.tolist(), strict=True):
        weight = [np.interp(u, np.linspace(0, 1, knots), kernel[:, a, b]) for a in range(12) for b in range(width)]
        sums[i] += x[j] @ torch.tensor(weight).view(12, width)
        counts[i] += 1
    expected = sums / counts.clamp(min=1)[:, None] + x @ root + operator.bias
    torch.testing.assert_close(found, expected)


@pytest.mark.skipif(not torch_geometric.typing.WITH_SPLINE, reason="SplineConv needs pyg_lib")
def test_spline_is_torch_geometrics(graph):
    theirs, model = SplineConv(12, 16, dim=1, kernel_size=2), Spline(12, 3, "bp")
    model.linear.weight.data = torch.cat([*theirs.weight.data, theirs.lin.weight.data.T], dim=1)
    found = model.conv(model.linear(graph.features), graph.edges, graph.pseudo)
    torch.testing.assert_close(found, theirs(graph.features.dense(), graph.edges, graph.pseudo[:, None]))
