"""Products at the places of edges against dense matrices."""

import pytest
import torch

pytest.importorskip("torch_geometric", reason="pip install torch_geometric")

from nerf_dfa.graph.places import Neighbours

PAIRS = torch.tensor([[0, 1, 1, 2, 4], [1, 0, 2, 1, 1]])  # node 3 has no edge but its loop


@pytest.fixture
def edges():
    return Neighbours(PAIRS, 5, torch.float64)


def test_weights_are_gcns(edges):
    there = torch.eye(5, dtype=torch.float64)
    there[PAIRS[1], PAIRS[0]] = 1  # row: target
    degrees = there.sum(1) ** -0.5
    assert len(edges.targets) == there.sum()
    torch.testing.assert_close(
        edges.weights, (degrees[:, None] * there * degrees)[edges.targets, edges.sources], check_stride=False
    )


def test_products_are_those_of_the_dense_matrix(edges, mkl):
    """Of two copies of the graph, whose matrix has two blocks."""
    places = edges.places(2)
    rows, columns = places.rows.long(), places.columns.long()
    assert places.shape == (10, 10)
    assert torch.equal(rows, torch.cat([edges.targets, edges.targets + 5]))
    assert torch.equal(columns, torch.cat([edges.sources, edges.sources + 5]))
    a, b = torch.randn(2, 10, 3, dtype=torch.float64)
    values = torch.randn(len(rows), dtype=torch.float64)
    matrix = torch.zeros(10, 10, dtype=torch.float64).index_put((rows, columns), values)
    torch.testing.assert_close(places.dots(a, b), (a @ b.T)[rows, columns])
    torch.testing.assert_close(places.sums(values, a), matrix @ a)
    torch.testing.assert_close(places.sums_back(values, a), matrix.T @ a)
    torch.testing.assert_close(places.totals(values), matrix.sum(1))


def test_edges_into_some_nodes(edges):
    part = edges.only_into(torch.tensor([3, 1]))
    kept = (edges.targets == 1) | (edges.targets == 3)
    assert part.into.tolist() == [1, 3]
    assert torch.equal(part.into[part.targets], edges.targets[kept])
    assert torch.equal(part.sources, edges.sources[kept])
    assert torch.equal(part.weights, edges.weights[kept])
    assert part.places(3).shape == (6, 15)
