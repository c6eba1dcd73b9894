"""Attention along edges against dense matrices, finite differences, and torch_geometric's DNAConv."""

import pytest
import torch

pytest.importorskip("torch_geometric", reason="pip install torch_geometric")

from torch import nn
from torch_geometric.nn import DNAConv, GATConv

from nerf_dfa.graph.attention import Attend, Gather, NodewiseDNAConv, NodewiseGATConv, RowSoftmax, by_head
from nerf_dfa.graph.data import make_graph
from nerf_dfa.graph.places import Neighbours

PAIRS = torch.tensor([[0, 1, 1, 2, 4], [1, 0, 2, 1, 1]])  # node 3 has no edge but its loop


@pytest.fixture
def edges():
    return Neighbours(PAIRS, 5, torch.float64)


def _attended(places, factors, q, shift, *tables):
    """The definition, with dense matrices."""
    where = places.rows.long(), places.columns.long()
    scores = torch.stack([q @ x.T + shift[:, None] for x in tables]).exp()  # (layers, rows, columns)
    p = scores / (1 + scores.sum(0))
    f = torch.zeros_like(p)
    for layer, row in zip(f, factors.expand(len(tables), -1), strict=True):
        layer[where] = row
    return sum(s @ x for s, x in zip(f * p, tables, strict=True)), (f * p).sum((0, 2))


@pytest.mark.parametrize("some", [False, True])
def test_attention_is_its_definition(edges, some, mkl):
    """Values, and derivatives of both modes against finite differences."""
    places = (edges.only_into(torch.tensor([1, 2])) if some else edges).places(2)
    rows, columns = places.shape
    factors = torch.randn(3, len(places.rows), dtype=torch.float64) * (torch.arange(len(places.rows)) % 3 > 0)
    shapes = [(rows, 3), (rows,), *[(columns, 3)] * 3]
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    for found, expected in zip(
        Attend.apply(places, factors, *inputs), _attended(places, factors, *inputs), strict=True
    ):
        torch.testing.assert_close(found, expected)
    assert torch.autograd.gradcheck(
        lambda *inputs: Attend.apply(places, factors, *inputs), inputs, check_forward_ad=True
    )
    assert torch.autograd.gradcheck(  # tables that need no gradient
        lambda q, shift: Attend.apply(places, factors[:1], q, shift, *(x.detach() for x in inputs[2:])), inputs[:2]
    )


def test_gradient_from_few_rows_is_the_definitions(edges, mkl):
    """As direct feedback brings it: the other rows' is 0, and their entries are left out."""
    places = edges.places(2)
    factors = torch.rand(3, len(places.rows), dtype=torch.float64)
    shapes = [(10, 3), (10,), *[(10, 3)] * 3]
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    d_out, d_total = torch.zeros(10, 3, dtype=torch.float64), torch.zeros(10, dtype=torch.float64)
    d_out[2] = torch.randn(3)
    d_total[5] = 0.7
    found, expected = (
        torch.autograd.grad(attended(places, factors, *inputs), inputs, (d_out, d_total))
        for attended in (Attend.apply, _attended)
    )
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_softmax_and_sums_are_their_definitions(edges, mkl):
    """Of a dense matrix whose other entries are -inf, and derivatives of both modes."""
    places = edges.places(2)
    where = places.rows.long(), places.columns.long()
    scores = torch.randn(len(places.rows), dtype=torch.float64, requires_grad=True)
    table = torch.randn(10, 3, dtype=torch.float64, requires_grad=True)
    dense = torch.full((10, 10), -torch.inf, dtype=torch.float64).index_put(where, scores).softmax(1)
    torch.testing.assert_close(RowSoftmax.apply(places, scores), dense[where])
    torch.testing.assert_close(RowSoftmax.apply(places, scores + 1000), dense[where])
    for function, inputs in ((RowSoftmax, (scores,)), (Gather, (scores, table))):
        apply = function.apply
        assert torch.autograd.gradcheck(lambda *x, apply=apply: apply(places, *x), inputs, check_forward_ad=True)


def _with_gradients(conv, x, read, other):
    y = conv(*read(x))
    return y, *torch.autograd.grad((y * other).sum(), [x, *conv.parameters()])


@pytest.mark.parametrize("layers", [1, 3])
def test_dna_is_torch_geometrics_with_its_gradients(small, layers, mkl):
    graph = make_graph("small", small, row_normalised=True)
    ours, theirs = NodewiseDNAConv(32, 4, 8), DNAConv(32, 4, 8)
    theirs.load_state_dict(ours.state_dict())
    for parameter in ours.parameters():  # biases start as 0 otherwise
        parameter.data += 0.1 * torch.randn_like(parameter)
    theirs.load_state_dict(ours.state_dict())
    x, other = torch.randn(60, layers, 32, requires_grad=True), torch.randn(60, 32)

    def ours_reads(x):
        return [by_head(layer, 4) for layer in x.unbind(1)], graph.neighbours

    found = _with_gradients(ours, x, ours_reads, other)
    expected = _with_gradients(theirs, x, lambda x: (x, graph.edges), other)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    nodes = graph.parts["val"]
    part = ours(ours_reads(x)[0], graph.neighbours_of["val"])
    torch.testing.assert_close(part, found[0][nodes])


def test_dropout_of_shares_keeps_their_mean(edges):
    conv = NodewiseDNAConv(8, 2, 2, dropout=0.8)
    factors = torch.stack([conv._factors(3, 2, edges.weights) for _ in range(4000)])
    assert factors.shape == (4000, 3, 2 * len(edges.weights))
    dropped = factors == 0
    assert abs(dropped.double().mean() - 0.8) < 0.01
    torch.testing.assert_close(factors[~dropped], (edges.weights.repeat(2) * 5).expand_as(factors)[~dropped])
    torch.testing.assert_close(conv.eval()._factors(3, 2, edges.weights), edges.weights.repeat(2)[None])


@pytest.mark.parametrize("heads", [1, 4])
def test_gat_is_torch_geometrics_with_its_gradients_and_draws(small, heads, mkl):
    """With dropout of the attention, from the same state of the random generator."""
    graph = make_graph("small", small, row_normalised=True)
    ours, theirs = (kind(8, 8, heads=heads, dropout=0.5) for kind in (NodewiseGATConv, GATConv))
    ours.lin = theirs.lin = nn.Identity()
    ours.bias.data = torch.randn(8 * heads)
    theirs.load_state_dict(ours.state_dict())
    x, other = torch.randn(2, 60, 8 * heads)
    x.requires_grad_()
    results = []
    for conv, edges in ((ours, graph.neighbours), (theirs, graph.edges)):
        torch.manual_seed(0)
        results.append(_with_gradients(conv, x, lambda x, edges=edges: (x, edges), other))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
