"""Graph operators that torch_geometric lacks on a CPU, or that are much faster when they know what we know.

Word counts are zero in 99 of 100 places, and a convolution's weights commute with its sum over neighbours. So the
first layer's product is a sparse one, made once for each node, and the sum runs over the narrow result.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch_geometric.nn import DNAConv
from torch_geometric.nn.conv.gcn_conv import gcn_norm
from torch_geometric.utils import degree


@dataclass(frozen=True)
class Features:
    """A sparse matrix (nodes, features), row by row: row n has `values` and `columns` from starts[n] to starts[n+1].

    For the transposed matrix: order (the place of its k-th value in `values`), rows and row_starts likewise.
    """

    shape: tuple[int, int]
    values: Float[Tensor, " entries"]
    columns: Int[Tensor, " entries"]
    starts: Int[Tensor, " nodes"]
    order: Int[Tensor, " entries"]
    rows: Int[Tensor, " entries"]
    column_starts: Int[Tensor, " features"]

    @staticmethod
    def of(dense: Float[Tensor, "nodes features"]) -> Features:
        """The matrix whose entries are those of `dense` that are not 0."""
        rows, columns = dense.nonzero(as_tuple=True)
        order = torch.argsort(columns, stable=True)
        return Features(
            tuple(dense.shape),
            dense[rows, columns],
            columns,
            _starts(rows, dense.shape[0]),
            order,
            rows[order],
            _starts(columns[order], dense.shape[1]),
        )

    def dropout(self, probability: float, training: bool) -> Features:
        """As F.dropout of the dense matrix: what is zero stays so."""
        if not training or not probability:
            return self
        return replace(self, values=F.dropout(self.values, probability))

    def dense(self) -> Float[Tensor, "nodes features"]:
        rows = torch.repeat_interleave(
            torch.arange(self.shape[0]), torch.diff(self.starts, append=torch.tensor([len(self.values)]))
        )
        return self.values.new_zeros(self.shape).index_put((rows, self.columns), self.values)


def _starts(sorted_numbers: Tensor, count: int) -> Tensor:
    return torch.searchsorted(sorted_numbers, torch.arange(count))


class _Product(torch.autograd.Function):
    """X W for sparse X (nodes, features) that needs no gradient and W (features, out)."""

    @staticmethod
    def forward(ctx, features: Features, weight: Tensor) -> Tensor:
        ctx.features = features
        return _sums(weight, features.columns, features.starts, features.values)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[None, Tensor]:
        f = ctx.features
        return None, _sums(gradient.contiguous(), f.rows, f.column_starts, f.values[f.order])


def _sums(table: Tensor, index: Tensor, starts: Tensor, values: Tensor) -> Tensor:
    return F.embedding_bag(index, table, starts, mode="sum", per_sample_weights=values.to(table.dtype))


class FeatureLinear(nn.Module):
    """The first layer's linear map of sparse features: x W + b, b = 0 to begin with; W (features, out)."""

    def __init__(self, weight: Float[Tensor, "features out"], bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(weight.new_zeros(weight.shape[1])) if bias else None

    def forward(self, x: Features) -> Float[Tensor, "nodes out"]:
        if x.shape[1] != self.weight.shape[0]:
            raise ValueError(f"the graph has {x.shape[1]} features, the network was made for {self.weight.shape[0]}")
        y = _Product.apply(x, self.weight)
        return y if self.bias is None else y + self.bias


class SplineSum(nn.Module):
    """SplineConv (Fey et al. 2018) of products made before: one pseudo-coordinate, degree 1, open spline, mean.

        y_i = 1/|N(i)| sum_j (sum_k B_k(u_ij) x_j W_k) + x_i W_root + b,   B_k(u) = max(0, 1 - |u (K - 1) - k|)

    B_k are the hat functions on K knots from 0 to 1. torch_geometric's needs a compiled package.
    """

    def __init__(self, width: int, kernel_size: int) -> None:
        super().__init__()
        self.width, self.kernel_size = width, kernel_size
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(
        self,
        products: Float[Tensor, "nodes products"],
        edges: Int[Tensor, "2 edges"],
        pseudo: Float[Tensor, " edges"],
    ) -> Float[Tensor, "nodes width"]:
        """products: x W_1, ..., x W_K, x W_root side by side; edges: from row 0 to row 1; pseudo: u in [0, 1]."""
        knots = torch.arange(self.kernel_size, dtype=pseudo.dtype)
        basis = (1 - (pseudo[:, None] * (self.kernel_size - 1) - knots).abs()).clamp(min=0)  # (edges, K)
        *kernel, root = products.split(self.width, dim=1)
        source, target = edges
        messages = sum(basis[:, k, None] * kernel[k][source] for k in range(self.kernel_size))
        sums = torch.zeros_like(root).index_add(0, target, messages)
        neighbours = degree(target, len(root), dtype=root.dtype).clamp(min=1)
        return sums / neighbours[:, None] + root + self.bias


class Neighbours:
    """The edges of a graph with a loop at every node, sorted by target, and GCN's weight of each.

    sources, targets, weights (edges,). Tensors with leading dimensions (batch) are taken as copies of the graph side
    by side: one long loop instead of many short ones.
    """

    def __init__(self, edges: Int[Tensor, "2 edges"], nodes: int, dtype: torch.dtype = torch.float32) -> None:
        edges, weights = gcn_norm(edges, None, nodes, False, True, dtype=dtype)
        by_target = torch.argsort(edges[1], stable=True)
        self.nodes, self.weights = nodes, weights[by_target]
        self.sources, self.targets = edges[:, by_target]
        self._copies = 0

    def into(self, nodes: Int[Tensor, " _"]) -> Neighbours:
        """The edges into these nodes alone, each with its weight in the whole graph."""
        wanted = torch.zeros(self.nodes, dtype=torch.bool)
        wanted[nodes] = True
        kept = wanted[self.targets]
        part = copy(self)
        part.sources, part.targets, part.weights = self.sources[kept], self.targets[kept], self.weights[kept]
        part._copies = 0
        return part

    def _make(self, copies: int) -> None:
        """Index tables of so many copies, of which fewer copies' are the beginning."""
        if copies <= self._copies:
            return
        self._copies, count = copies, len(self.sources)
        order = torch.argsort(self.sources, stable=True)

        def repeated(index: Tensor, step: int) -> Tensor:
            return (index + step * torch.arange(copies)[:, None]).flatten().int()

        self._sources, self._targets = repeated(self.sources, self.nodes), repeated(self.targets, self.nodes)
        self._starts = repeated(_starts(self.targets, self.nodes), count)  # the first edge into each node
        self._order = repeated(order, count)  # sorts edges by source
        self._ends = repeated(self.targets[order], self.nodes)
        self._source_starts = repeated(_starts(self.sources[order], self.nodes), count)

    def sums(
        self, table: Float[Tensor, "*batch nodes d"], values: Float[Tensor, "*batch edges"]
    ) -> Float[Tensor, "*batch nodes d"]:
        """For each node the sum of values * table[source] over the edges into it."""
        rows, count = table.numel() // table.shape[-1], values.numel()
        self._make(rows // self.nodes)
        flat = _sums(table.flatten(0, -2), self._sources[:count], self._starts[:rows], values.flatten())
        return flat.view(table.shape)

    def sums_back(
        self, table: Float[Tensor, "*batch nodes d"], values: Float[Tensor, "*batch edges"]
    ) -> Float[Tensor, "*batch nodes d"]:
        """For each node the sum of values * table[target] over the edges out of it."""
        rows, count = table.numel() // table.shape[-1], values.numel()
        self._make(rows // self.nodes)
        values = values.flatten().index_select(0, self._order[:count])
        flat = _sums(table.flatten(0, -2), self._ends[:count], self._source_starts[:rows], values)
        return flat.view(table.shape)

    def dots(
        self, a: Float[Tensor, "*batch nodes d"], b: Float[Tensor, "*batch nodes d"]
    ) -> Float[Tensor, "*batch edges"]:
        """a[target] . b[source] of every edge."""
        rows = a.numel() // a.shape[-1]
        count = rows // self.nodes * len(self.sources)
        self._make(rows // self.nodes)
        a, b, batch = a.flatten(0, -2), b.flatten(0, -2), a.shape[:-2]
        sources = self._sources[:count]
        if torch.backends.mkl.is_available():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # PyTorch calls every matrix of this layout beta
                starts = torch.cat([self._starts[:rows], self._starts.new_tensor([count])])
                where = torch.sparse_csr_tensor(starts, sources, a.new_zeros(count), (rows, rows))
                flat = torch.sparse.sampled_addmm(where, a, b.T, beta=0).values()
        else:
            flat = (a.index_select(0, self._targets[:count]) * b.index_select(0, sources)).sum(1)
        return flat.view(*batch, -1)


class EdgeDots(torch.autograd.Function):
    """Neighbours.dots(a, b)."""

    @staticmethod
    def forward(ctx, a: Tensor, b: Tensor, edges: Neighbours) -> Tensor:
        ctx.edges = edges
        ctx.save_for_backward(a, b)
        ctx.save_for_forward(a, b)
        return edges.dots(a, b)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        a, b = ctx.saved_tensors
        return ctx.edges.sums(b, gradient), ctx.edges.sums_back(a, gradient), None

    @staticmethod
    def jvp(ctx, a_tangent: Tensor | None, b_tangent: Tensor | None, _: None) -> Tensor:
        a, b = ctx.saved_tensors
        return _either(a_tangent, lambda t: ctx.edges.dots(t, b), b_tangent, lambda t: ctx.edges.dots(a, t))


class EdgeSums(torch.autograd.Function):
    """Neighbours.sums(table, values)."""

    @staticmethod
    def forward(ctx, table: Tensor, values: Tensor, edges: Neighbours) -> Tensor:
        ctx.edges = edges
        ctx.save_for_backward(table, values)
        ctx.save_for_forward(table, values)
        return edges.sums(table, values)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        table, values = ctx.saved_tensors
        return ctx.edges.sums_back(gradient, values), ctx.edges.dots(gradient, table), None

    @staticmethod
    def jvp(ctx, table_tangent: Tensor | None, values_tangent: Tensor | None, _: None) -> Tensor:
        table, values = ctx.saved_tensors
        sums = ctx.edges.sums
        return _either(table_tangent, lambda t: sums(t, values), values_tangent, lambda t: sums(table, t))


def _either(a: Tensor | None, f: Callable, b: Tensor | None, g: Callable) -> Tensor:
    return g(b) if a is None else f(a) if b is None else f(a) + g(b)


class NodewiseDNAConv(DNAConv):
    """torch_geometric's DNAConv, for a multiple of `heads` groups, several times as fast.

    Queries, keys and values are made for each node instead of for each edge, and what an edge reads of them is
    multiplied and summed where it lies, never copied to the edge.
    """

    def forward(self, x: Float[Tensor, "layers nodes width"], edges: Neighbours) -> Float[Tensor, "nodes width"]:
        layers, nodes, width = x.shape
        heads = self.multi_head
        query = _by_head(heads.lin_q, x[-1], heads.heads) * (width / heads.heads) ** -0.5  # (heads, nodes, d)
        key, value = (
            _by_head(linear, x.flatten(0, 1), heads.heads).unflatten(1, (layers, nodes))
            for linear in (heads.lin_k, heads.lin_v)
        )
        scores = EdgeDots.apply(query[:, None].expand_as(key), key, edges)  # (heads, layers, edges)
        top = scores.amax(1, keepdim=True).clamp(min=0)
        shares = (scores - top).exp()
        shares = shares / (shares.sum(1, keepdim=True) + (-top).exp())  # one more choice: none, with score 0
        if self.training and heads.dropout:  # F.dropout draws more slowly
            shares = shares * (torch.rand_like(shares) >= heads.dropout) * (1 / (1 - heads.dropout))
        shares = shares * edges.weights
        return EdgeSums.apply(value, shares, edges).sum(1).transpose(0, 1).flatten(1)


def _by_head(linear: nn.Module, x: Float[Tensor, "rows width"], heads: int) -> Float[Tensor, "heads rows d"]:
    """torch_geometric's grouped linear map, the groups of a head as one block diagonal matrix."""
    each = linear.groups // heads
    weight = linear.weight.unflatten(0, (heads, each))  # (heads, groups of a head, in, out)
    blocks = torch.einsum("hgio,gk->hgiko", weight, torch.eye(each, dtype=weight.dtype)).flatten(3).flatten(1, 2)
    return torch.baddbmm(linear.bias.view(heads, 1, -1), x.unflatten(1, (heads, -1)).transpose(0, 1), blocks)
