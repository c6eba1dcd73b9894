"""A graph's edges as places in a sparse matrix, and the products that attention makes there.

A score is a sampled entry of a product of two dense matrices, and what the edges bring is a product with the sparse
one. Nothing is copied to the edges.
"""

from __future__ import annotations

import warnings
from copy import copy
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag
from torch_geometric.nn.conv.gcn_conv import gcn_norm


class Places:
    """Where a sparse matrix (rows, columns) has entries, sorted by row."""

    def __init__(self, rows: Int[Tensor, " entries"], columns: Int[Tensor, " entries"], shape: tuple[int, int]) -> None:
        self.shape, self.rows, self.columns = shape, rows.int(), columns.int()
        self._starts = _starts(rows, shape[0])

    @cached_property
    def _by_column(self) -> tuple[Int[Tensor, " entries"], Int[Tensor, " entries"], Int[Tensor, " _"]]:
        """What sorts the entries by column, their rows in this order, and where each column starts in it."""
        order = torch.argsort(self.columns, stable=True)
        return order, self.rows[order], _starts(self.columns[order], self.shape[1])

    def only(self, kept: Int[Tensor, " _"]) -> Places:
        """The entries of these numbers, which ascend."""
        return Places(self.rows.index_select(0, kept), self.columns.index_select(0, kept), self.shape)

    def dots(
        self, a: Float[Tensor, "rows d"], b: Float[Tensor, "columns d"], out: Float[Tensor, " entries"] | None = None
    ) -> Float[Tensor, " entries"]:
        """The entries of a b^T; out: zeros in contiguous memory, which they replace."""
        if not torch.backends.mkl.is_available():
            return torch.sum(a.index_select(0, self.rows) * b.index_select(0, self.columns), 1, out=out)
        out = a.new_zeros(len(self.rows)) if out is None else out
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch calls every matrix of this layout beta
            where = torch.sparse_csr_tensor(self._starts, self.columns, out, self.shape)
            torch.sparse.sampled_addmm(where, _at_hand(a), _at_hand(b).T, beta=0, out=where)
        return out

    def sums(self, values: Float[Tensor, " entries"], table: Float[Tensor, "columns d"]) -> Float[Tensor, "rows d"]:
        """The matrix of these values times the table."""
        table = _at_hand(table)
        return embedding_bag(self.columns, table, self._starts[:-1], mode="sum", per_sample_weights=values)

    def sums_back(
        self, values: Float[Tensor, " entries"], table: Float[Tensor, "rows d"]
    ) -> Float[Tensor, "columns d"]:
        """The transposed matrix times the table."""
        order, rows, starts = self._by_column
        values, table = values.index_select(0, order), _at_hand(table)
        return embedding_bag(rows, table, starts[:-1], mode="sum", per_sample_weights=values)

    def totals(self, values: Float[Tensor, " entries"]) -> Float[Tensor, " rows"]:
        """The sum of each row."""
        return values.new_zeros(self.shape[0]).index_add_(0, self.rows, values)

    def largest(self, values: Float[Tensor, " entries"]) -> Float[Tensor, " rows"]:
        """The largest of each row, -inf of an empty one."""
        return torch.segment_reduce(values, "max", offsets=self._starts.long(), unsafe=True)


def _at_hand(table: Float[Tensor, "_ d"]) -> Float[Tensor, "_ d"]:
    """The same numbers, read once in order: so they are in the cache, where to meet them at random costs little.

    A fifth of DNAConv's time. Cut from the graph, for which embedding_bag would make tables of its own.
    """
    table = table.detach()
    table.sum()
    return table


def _starts(numbers: Int[Tensor, " entries"], count: int) -> Int[Tensor, " _"]:
    """Where 0, 1, 2, ..., count begin among ascending numbers."""
    return torch.searchsorted(numbers, torch.arange(count + 1, dtype=numbers.dtype)).int()


class Neighbours:
    """The edges of a graph with a loop at every node, sorted by target, and GCN's weight of each.

    sources, targets, weights (edges,). order: where each was before, with the loops behind all other edges.
    into: the targets' numbers stand for these nodes; None: for all, as they are.
    """

    def __init__(self, edges: Int[Tensor, "2 edges"], nodes: int, dtype: torch.dtype = torch.float32) -> None:
        edges, weights = gcn_norm(edges, None, nodes, False, True, dtype=dtype)
        self.order = torch.argsort(edges[1], stable=True)
        self.nodes, self.weights, self.into = nodes, weights[self.order], None
        self.sources, self.targets = edges[:, self.order]
        self._places: dict[int, Places] = {}

    def only_into(self, nodes: Int[Tensor, " _"]) -> Neighbours:
        """The edges into these nodes alone, each with its weight in the whole graph."""
        part = copy(self)
        part.into, part._places = nodes.sort().values, {}
        number = torch.full((self.nodes,), -1)
        number[part.into] = torch.arange(len(nodes))
        kept = number[self.targets] >= 0
        part.sources, part.targets, part.weights = self.sources[kept], number[self.targets[kept]], self.weights[kept]
        part.order = self.order[kept]
        return part

    def places(self, copies: int) -> Places:
        """Rows are targets and columns are sources, of so many copies of the graph, one after the other."""
        if copies not in self._places:
            rows = self.nodes if self.into is None else len(self.into)
            number = torch.arange(copies)[:, None]
            self._places[copies] = Places(
                (self.targets + rows * number).flatten(),
                (self.sources + self.nodes * number).flatten(),
                (copies * rows, copies * self.nodes),
            )
        return self._places[copies]
