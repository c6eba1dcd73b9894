"""The graph networks of Launay et al. 2020, section 3.2, with a feedback point after every non-linearity.

A model takes a Graph and gives the logits of its nodes (the autoencoder: their embedding), and the error that direct
feedback spreads is that at the logits, before any softmax. One feedback matrix serves all nodes. A feedback point lies
behind its layer's dropout, so that a unit that had no part in the output gets no signal. (SplineConv on CiteSeer, with
the points before the dropout: 64 % in place of 69.)

The convolutions are torch_geometric's. Their weights stand before them as layers of their own (a convolution sums
over neighbours, and that commutes with the weights): sparse for the first, an nn.Linear for the second layer, through
which the sequential rules (fa and its kin) send their errors back. The derivative of what is inside a convolution,
such as attention, is always exact.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch_geometric.nn import ChebConv, GCNConv

from nerf_dfa.graph.attention import NodewiseDNAConv, NodewiseGATConv, by_head
from nerf_dfa.graph.data import Graph
from nerf_dfa.graph.operators import FeatureLinear, SplineSum, dropout
from nerf_dfa.graph.places import Neighbours
from nerf_dfa.learning import make_rule
from nerf_dfa.learning.sequential import KINDS

# Not drtp, which needs a label for every row, and hdfa, which comes with an optimiser of its own.
DIRECT_RULES = ("bp", "shallow", "dfa", "dkp", "fdfa", "modular")
SEQUENTIAL_RULES = KINDS


class GraphNetwork(nn.Module):
    """Base of the networks: what the task has to know of one.

    row_normalised: it reads features that are divided by their sum over the row. sequential: rules that send errors
    back layer by layer can train it. dropout: of the inputs of both layers (DNA: of what its two linear layers bound).
    """

    row_normalised = True
    sequential = True

    def __init__(self, dropout: float, rule: str) -> None:
        super().__init__()
        known = DIRECT_RULES + (SEQUENTIAL_RULES if self.sequential else ())
        if rule not in known:
            raise ValueError(f"{type(self).__name__} has no learning rule '{rule}'; there are {', '.join(known)}")
        self.dropout = dropout

    def forward(self, graph: Graph, part: str | None = None) -> Float[Tensor, "nodes out"]:
        """part: only the rows of its nodes are asked for; the others' may be anything."""
        raise NotImplementedError

    def decayed(self) -> list[nn.Parameter]:
        """The parameters that weight decay is for; learned feedback goes with the top layer."""
        return list(self.parameters())

    def dropped(self, x: Tensor) -> Tensor:
        return dropout(x, self.dropout, self.training)


class TwoLayers(GraphNetwork):
    """Convolution, activation, dropout, feedback point, convolution. A subclass says which.

    width: of the hidden layer. feature_dropout: whether the dropout is of the features too, or of the hidden layer
    alone. options: of the rule.
    """

    width = 16
    activation: Callable[[Tensor], Tensor] = staticmethod(F.relu)

    def __init__(
        self,
        features: int,
        out: int,
        rule: str = "dfa",
        dropout: float = 0.0,
        feature_dropout: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(dropout, rule)
        self.feature_dropout = feature_dropout
        self.linear = FeatureLinear(self.weight(features, self.width))
        self.conv = self.convolution(self.width)
        self.top_linear = _linear(self.weight(self.width, out))
        self.top_conv = self.top_convolution(out)
        self.rule = make_rule(rule, out, [self.width], **options).prepare(self)

    def forward(self, graph: Graph, part: str | None = None) -> Float[Tensor, "nodes out"]:
        tape = self.rule.tape()
        features = graph.features.dropout(self.dropout, self.training and self.feature_dropout)
        h = self.activation(self.conv(self.linear(features), *self.structure(graph)))
        x = tape.hidden(self.dropped(h))
        return tape.output(self.top_conv(self.top_linear(x), *self.structure(graph)))

    def weight(self, inputs: int, out: int) -> Float[Tensor, "inputs products"]:
        """What the linear map before a convolution to `out` units starts as."""
        return glorot(inputs, out)

    def convolution(self, out: int) -> nn.Module:
        """The convolution behind it, of `out` units."""
        raise NotImplementedError

    def top_convolution(self, out: int) -> nn.Module:
        return self.convolution(out)

    def structure(self, graph: Graph) -> tuple[Tensor | Neighbours, ...]:
        """What the convolution reads besides."""
        return (graph.edges,)


class FirstDecays:
    """Weight decay for the first layer alone."""

    def decayed(self) -> list[nn.Parameter]:
        return [*self.linear.parameters(), *self.conv.parameters()]


class GCN(FirstDecays, TwoLayers):
    """GCNConv (Kipf and Welling 2017), the paper's GraphConv: 16 hidden units, ReLU."""

    def convolution(self, out: int) -> nn.Module:
        conv = GCNConv(out, out)
        conv.lin = nn.Identity()
        return conv


class Autoencoder(GCN):
    """The encoder of the graph autoencoder (Kipf and Welling 2016): 32 hidden units, an embedding of 16."""

    width = 32

    def decayed(self) -> list[nn.Parameter]:
        return list(self.parameters())


class Cheb(FirstDecays, TwoLayers):
    """ChebConv (Defferrard et al. 2016) of K = 2 terms: 16 hidden units, ReLU."""

    terms = 2

    def weight(self, inputs: int, out: int) -> Float[Tensor, "inputs products"]:
        return torch.cat([glorot(inputs, out) for _ in range(self.terms)], dim=1)

    def convolution(self, out: int) -> nn.Module:
        conv = ChebConv(out, out, K=self.terms)
        conv.lins = nn.ModuleList(_Columns(term * out, out) for term in range(self.terms))
        return conv


class Spline(TwoLayers):
    """SplineConv (Fey et al. 2018) with 2 knots over the target's degree: 16 hidden units, ELU."""

    row_normalised = False
    knots = 2
    activation = staticmethod(F.elu)

    def weight(self, inputs: int, out: int) -> Float[Tensor, "inputs products"]:
        kernel, root = (self.knots * inputs) ** -0.5, inputs**-0.5  # as torch_geometric draws them
        return torch.cat([_uniform(inputs, self.knots * out, kernel), _uniform(inputs, out, root)], dim=1)

    def convolution(self, out: int) -> nn.Module:
        return SplineSum(out, self.knots)

    def structure(self, graph: Graph) -> tuple[Tensor, ...]:
        return graph.edges, graph.pseudo


class GAT(TwoLayers):
    """GATConv (Veličković et al. 2018): 8 heads of 8 units, ELU, one head at the top.

    attention_dropout, top_attention_dropout: of the attention coefficients of the two layers.
    """

    heads = 8
    width = 64
    activation = staticmethod(F.elu)

    def __init__(
        self,
        features: int,
        out: int,
        rule: str = "dfa",
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        top_attention_dropout: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(features, out, rule, dropout, **options)
        self.conv.dropout, self.top_conv.dropout = attention_dropout, top_attention_dropout

    def convolution(self, out: int, heads: int = heads) -> nn.Module:
        conv = NodewiseGATConv(out, out // heads, heads=heads)
        conv.lin = nn.Identity()
        return conv

    def top_convolution(self, out: int) -> nn.Module:
        return self.convolution(out, heads=1)

    def structure(self, graph: Graph) -> tuple[Neighbours]:
        return (graph.neighbours,)


class DNA(GraphNetwork):
    """Dynamic neighbourhood aggregation (Fey 2019): linear, 5 DNAConv, linear; each with ReLU, 128 units.

    A convolution attends, with 8 heads and weights in 16 groups, to all layers below it; each of the six layers is a
    feedback point. attention_dropout: of the attention coefficients.
    """

    row_normalised = sequential = False
    width, layers, heads, groups = 128, 5, 8, 16

    def __init__(
        self,
        features: int,
        out: int,
        rule: str = "dfa",
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(dropout, rule)
        self.linear = FeatureLinear(_uniform(features, self.width, features**-0.5), bias=True)
        self.convs = nn.ModuleList(
            NodewiseDNAConv(self.width, self.heads, self.groups, attention_dropout) for _ in range(self.layers)
        )
        self.top_linear = nn.Linear(self.width, out)
        self.rule = make_rule(rule, out, [self.width] * (1 + self.layers), **options).prepare(self)

    def forward(self, graph: Graph, part: str | None = None) -> Float[Tensor, "nodes out"]:
        tape = self.rule.tape()
        x = tape.hidden(self.dropped(F.relu(self.linear(graph.features))))
        below = []
        for conv in self.convs[:-1]:
            below.append(by_head(x, self.heads))
            x = tape.hidden(F.relu(conv(below, graph.neighbours), inplace=True))
        below.append(by_head(x, self.heads))
        edges = graph.neighbours_of[part] if part else graph.neighbours
        h = F.relu(self.convs[-1](below, edges), inplace=True)
        if edges.into is not None:
            h = torch.zeros_like(x).index_copy(0, edges.into, h)
        x = tape.hidden(self.dropped(h))
        return tape.output(self.top_linear(x))


MODELS: dict[str, type[GraphNetwork]] = {
    "cheb": Cheb,
    "gcn": GCN,
    "spline": Spline,
    "gat": GAT,
    "dna": DNA,
    "gae": Autoencoder,
}


class _Columns(nn.Module):
    """`width` columns from `start` on: a term's product, where ChebConv would multiply by the term's weight."""

    def __init__(self, start: int, width: int) -> None:
        super().__init__()
        self.start, self.width = start, width

    def forward(self, x: Tensor) -> Tensor:
        return x[:, self.start : self.start + self.width]


def glorot(inputs: int, out: int) -> Float[Tensor, "inputs out"]:
    """Glorot and Bengio's uniform weights (2010)."""
    return _uniform(inputs, out, (6 / (inputs + out)) ** 0.5)


def _uniform(inputs: int, out: int, bound: float) -> Tensor:
    return torch.empty(inputs, out).uniform_(-bound, bound)


def _linear(weight: Tensor) -> nn.Linear:
    """x W as an nn.Linear; W (inputs, out)."""
    linear = nn.Linear(*weight.shape, bias=False)
    linear.weight = nn.Parameter(weight.T.contiguous())
    return linear
