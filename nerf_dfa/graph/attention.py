"""Attention along the edges of a graph: GATConv and DNAConv, several times as fast as torch_geometric's.

DNAConv attends to several layers of a neighbour. A linear map of the neighbour's key commutes with the score, and one
of its value with the sum, so both are made once for each node that asks, not once for each layer of each node:

    q . (x W + b) = (W q) . x + q . b,     sum_j s_j (x_j W + b) = (sum_j s_j x_j) W + b sum_j s_j
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch_geometric.nn import DNAConv, GATConv

from nerf_dfa.graph.operators import dropout
from nerf_dfa.graph.places import Neighbours, Places

_softmax_derivative = torch.ops.aten._softmax_backward_data  # p (g - sum p g): forward or backward, it is symmetric


class Attend(torch.autograd.Function):
    """What each row gathers of several tables' columns, by a softmax over the tables and over taking none.

        out_i = sum_j sum_l f_lij p_lij x_lj,    total_i = sum_j sum_l f_lij p_lij
        p_lij = exp(q_i . x_lj + c_i) / (1 + sum_m exp(q_i . x_mj + c_i))       for the places (i, j)

    f: factors (layers, entries), q: (rows, d), c: shift (rows,), x: tables (columns, d).
    """

    @staticmethod
    def forward(ctx, places: Places, factors: Tensor, q: Tensor, shift: Tensor, *tables: Tensor) -> tuple[Tensor, ...]:
        scores = q.new_zeros(1 + len(tables), len(places.rows))
        scores[0] = -shift.index_select(0, places.rows)  # of taking none, where the others' have no shift
        for row, x in zip(scores[1:], tables, strict=True):
            places.dots(q, x, out=row)
        p = torch.softmax(scores, 0)
        shares = p[1:] * factors
        ctx.places = places
        ctx.save_for_backward(factors, p, shares, q, *tables)
        ctx.save_for_forward(factors, p, shares, q, *tables)
        return _sum(map(places.sums, shares, tables)), places.totals(shares.sum(0))

    @staticmethod
    def backward(ctx, d_out: Tensor, d_total: Tensor) -> tuple[Tensor | None, ...]:
        places, (factors, p, shares, q, *tables) = ctx.places, ctx.saved_tensors
        d_out = d_out.contiguous()
        asked = (torch.mv(d_out.abs(), d_out.new_ones(d_out.shape[1])) + d_total.abs() != 0).index_select(
            0, places.rows
        )
        if 2 * asked.count_nonzero() < len(asked):  # direct feedback has a signal for training nodes alone
            kept = asked.nonzero()[:, 0]
            places, (factors, p, shares) = places.only(kept), (x.index_select(1, kept) for x in (factors, p, shares))
        d_total = d_total.index_select(0, places.rows)
        d_p = torch.zeros_like(p)
        for row, factor, x in zip(d_p[1:], factors.expand_as(shares), tables, strict=True):
            places.dots(d_out, x, out=row).add_(d_total).mul_(factor)
        d_scores = _softmax_derivative(d_p, p, 0, p.dtype)
        d_tables = [
            places.sums_back(d_score, q).add_(places.sums_back(share, d_out)) if needed else None
            for d_score, share, needed in zip(d_scores[1:], shares, ctx.needs_input_grad[4:], strict=True)
        ]
        return None, None, _sum(map(places.sums, d_scores[1:], tables)), -places.totals(d_scores[0]), *d_tables

    @staticmethod
    @torch.no_grad()  # the tangents' own derivatives are never wanted
    def jvp(ctx, *tangents: Tensor | None) -> tuple[Tensor, Tensor]:
        _, _, t_q, t_shift, *t_tables = tangents
        places, (factors, p, shares, q, *tables) = ctx.places, ctx.saved_tensors
        t_scores = torch.zeros_like(p)
        if t_shift is not None:
            t_scores[0] = -t_shift.index_select(0, places.rows)
        for row, x, t_x in zip(t_scores[1:], tables, t_tables, strict=True):
            if t_q is not None:
                row += places.dots(t_q.contiguous(), x)
            if t_x is not None:
                row += places.dots(q, t_x.contiguous())
        t_shares = _softmax_derivative(t_scores, p, 0, p.dtype)[1:] * factors
        t_out = _sum(map(places.sums, t_shares, tables))
        for share, t_x in zip(shares, t_tables, strict=True):
            if t_x is not None:
                t_out += places.sums(share, t_x.contiguous())
        return t_out, places.totals(t_shares.sum(0))


def _sum(terms: Iterable[Tensor]) -> Tensor:
    """Adds up in the memory of the first."""
    terms = iter(terms)
    total = next(terms)
    for term in terms:
        total += term
    return total


def by_head(x: Float[Tensor, "nodes width"], heads: int) -> Float[Tensor, "heads nodes d"]:
    """Each head's part of the features, as NodewiseDNAConv reads it."""
    return x.unflatten(1, (heads, -1)).transpose(0, 1).contiguous()


class RowSoftmax(torch.autograd.Function):
    """Softmax over the entries of each row; every row has one."""

    @staticmethod
    def forward(ctx, places: Places, scores: Tensor) -> Tensor:
        p = (scores - places.largest(scores).index_select(0, places.rows)).exp_()
        p /= places.totals(p).index_select(0, places.rows)
        ctx.places = places
        ctx.save_for_backward(p)
        ctx.save_for_forward(p)
        return p

    @staticmethod
    def backward(ctx, d_p: Tensor) -> tuple[None, Tensor]:
        (p,) = ctx.saved_tensors
        d_scores = p * d_p
        return None, d_scores - p * ctx.places.totals(d_scores).index_select(0, ctx.places.rows)

    @staticmethod
    @torch.no_grad()
    def jvp(ctx, _: None, t_scores: Tensor) -> Tensor:
        return RowSoftmax.backward(ctx, t_scores)[1]  # the derivative is symmetric


class Gather(torch.autograd.Function):
    """Places.sums(values, table)."""

    @staticmethod
    def forward(ctx, places: Places, values: Tensor, table: Tensor) -> Tensor:
        ctx.places = places
        ctx.save_for_backward(values, table)
        ctx.save_for_forward(values, table)
        return places.sums(values, table)

    @staticmethod
    def backward(ctx, d_out: Tensor) -> tuple[None, Tensor, Tensor]:
        values, table = ctx.saved_tensors
        d_out = d_out.contiguous()
        return None, ctx.places.dots(d_out, table), ctx.places.sums_back(values, d_out)

    @staticmethod
    @torch.no_grad()
    def jvp(ctx, _: None, t_values: Tensor | None, t_table: Tensor | None) -> Tensor:
        values, table = ctx.saved_tensors
        terms = [] if t_values is None else [ctx.places.sums(t_values.contiguous(), table)]
        terms += [] if t_table is None else [ctx.places.sums(values, t_table.contiguous())]
        return _sum(terms)


class NodewiseGATConv(GATConv):
    """torch_geometric's GATConv of products made before."""

    def forward(self, x: Float[Tensor, "nodes width"], edges: Neighbours) -> Float[Tensor, "nodes width"]:
        places, x = edges.places(self.heads), x.unflatten(1, (self.heads, -1))
        target, source = ((x * weight).sum(2).T.flatten() for weight in (self.att_dst, self.att_src))
        scores = target.index_select(0, places.rows) + source.index_select(0, places.columns)
        shares = RowSoftmax.apply(places, F.leaky_relu(scores, self.negative_slope))
        if self.training and self.dropout:  # drawn in torch_geometric's order
            drawn = dropout(shares.new_ones(len(edges.order), self.heads), self.dropout, True)
            shares = shares * drawn[edges.order].T.flatten()
        out = Gather.apply(places, shares, x.transpose(0, 1).flatten(0, 1))
        return out.unflatten(0, (self.heads, -1)).transpose(0, 1).flatten(1) + self.bias


class NodewiseDNAConv(DNAConv):
    """torch_geometric's DNAConv, for a multiple of `heads` groups, many times as fast."""

    def forward(
        self, layers: Sequence[Float[Tensor, "heads nodes d"]], edges: Neighbours
    ) -> Float[Tensor, "targets width"]:
        """layers: see by_head, from the lowest up; the last one asks, all are read."""
        linears, places = self.multi_head, edges.places(self.multi_head.heads)
        last = layers[-1] if edges.into is None else layers[-1].index_select(1, edges.into)
        heads, nodes, d = last.shape
        (to_query, query), (to_key, key), (to_value, value) = (
            _blocks(linear, heads) for linear in (linears.lin_q, linears.lin_k, linears.lin_v)
        )
        to_query, query = to_query * d**-0.5, query * d**-0.5
        q = torch.baddbmm(query @ to_key.mT, last, to_query @ to_key.mT)
        shift = torch.baddbmm(query @ key.mT, last, to_query @ key.mT)
        out, total = Attend.apply(
            places, self._factors(len(layers), heads, edges.weights), q.flatten(0, 1), shift.flatten(),
            *(x.flatten(0, 1) for x in layers),
        )  # fmt: skip
        biases = torch.bmm(total.view(heads, nodes, 1), value)
        out = torch.baddbmm(biases, out.view(heads, nodes, d), to_value)
        return out.transpose(0, 1).flatten(1)

    def _factors(self, layers: int, heads: int, weights: Float[Tensor, " edges"]) -> Float[Tensor, "_ entries"]:
        """The edges' weights with dropout of the shares: a number for each head's entries, and layer if they differ."""
        dropped, weights = self.multi_head.dropout, weights.repeat(heads)
        if not self.training or not dropped:
            return weights[None]
        kept = torch.rand(heads, layers, len(weights) // heads, dtype=weights.dtype) >= dropped
        return kept.transpose(0, 1).flatten(1) * (weights / (1 - dropped))


def _blocks(linear: nn.Module, heads: int) -> tuple[Float[Tensor, "heads d d"], Float[Tensor, "heads 1 d"]]:
    """torch_geometric's grouped linear map: the groups of a head as one block diagonal matrix, and the bias."""
    each = linear.groups // heads
    weight = linear.weight.unflatten(0, (heads, each))  # (heads, groups of a head, in, out)
    blocks = torch.einsum("hgio,gk->hgiko", weight, torch.eye(each, dtype=weight.dtype))
    return blocks.flatten(3).flatten(1, 2), linear.bias.view(heads, 1, -1)
