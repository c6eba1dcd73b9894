"""Click models with their feedback points; each takes indices of one table and gives logits.

| model     | feedback points                                         | exact gradient under every rule            |
|-----------|---------------------------------------------------------|--------------------------------------------|
| `fm`      | none                                                    | everything                                 |
| `deepfm`  | the MLP's blocks; if asked for the embedding, the first | first order, top layer, embedding (by FM)  |
| `dcn`     | embedding, cross layers, the MLP's blocks               | top layer                                  |
| `afn`     | logarithms, logarithmic neurons, the MLP's blocks       | first order, top layer                     |
| `autoint` | embedding, attention layers, the MLP's blocks           | first order, top layer                     |

A feedback point lies behind a block's dropout. The error that direct feedback spreads is that at the logit: one number
a row, so that a layer's signals in a batch all lie on one line. Where a layer has no feedback point and its input is
cut (deepfm's MLP reads the embedding), nothing is sent to what lies below.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nerf_dfa.learning import make_rule
from nerf_dfa.recommender.layers import (
    MLP,
    Cross,
    FieldEmbedding,
    FirstOrder,
    Interacting,
    Logarithms,
    Powers,
    pairwise,
)

# Not drtp, which needs targets as wide as the error, and hdfa, which comes with an optimiser of its own.
DIRECT_RULES = ("bp", "shallow", "dfa", "dkp", "fdfa", "modular")
STD = 0.05  # of embeddings at the start


class ClickModel(nn.Module):
    """Base of the models.

    fields, values: number of fields, and of all their values; width: D of the embedding; mlp: widths of its blocks;
    sparse: of the embedding's gradient; options: of the rule. feedback_widths: of the feedback points, in order.
    """

    feedback_widths: list[int]

    def __init__(
        self, fields: int, values: int, width: int, mlp: list[int], dropout: float, norm: str, sparse: bool
    ) -> None:
        super().__init__()
        self.flat = fields * width
        self.embedding = FieldEmbedding(values, width, STD, sparse)
        self.mlp = MLP(self.flat, mlp, dropout, norm) if mlp else None

    def forward(self, fields: Int[Tensor, "rows F"]) -> Float[Tensor, " rows"]:
        raise NotImplementedError


class FM(ClickModel):
    """Factorization machine (Rendle 2010). It has no hidden layer, so that every rule is backpropagation."""

    def __init__(self, fields: int, values: int, rule: str, width: int = 16, sparse: bool = False) -> None:
        super().__init__(fields, values, width, [], 0.0, "none", sparse)
        if rule != "bp":
            raise ValueError(f"fm has no hidden layer for '{rule}' to teach; its rule is bp")
        self.first_order = FirstOrder(values, sparse)

    def forward(self, fields: Int[Tensor, "rows F"]) -> Float[Tensor, " rows"]:
        return (self.first_order(fields) + pairwise(self.embedding(fields)))[:, 0]


class DeepFM(ClickModel):
    """An FM and an MLP on its embeddings (Guo et al. 2017).

    embedding_point: the embedding learns by feedback too, beside its exact gradient through the FM.
    """

    def __init__(
        self,
        fields: int,
        values: int,
        rule: str,
        width: int = 10,
        mlp: list[int] | None = None,
        dropout: float = 0.0,
        norm: str = "batch",
        sparse: bool = False,
        embedding_point: bool = False,
        **options: Any,
    ) -> None:
        mlp = mlp or [400] * 3
        super().__init__(fields, values, width, mlp, dropout, norm, sparse)
        self.first_order = FirstOrder(values, sparse)
        self.top = nn.Linear(mlp[-1], 1, bias=False)
        self._cut, self._point = rule != "bp", embedding_point
        self.feedback_widths = [self.flat] * embedding_point + mlp
        self.rule = make_rule(rule, 1, self.feedback_widths, **options).prepare(self)

    def forward(self, fields: Int[Tensor, "rows F"]) -> Float[Tensor, " rows"]:
        tape = self.rule.tape()
        embedded = self.embedding(fields)
        read = embedded.flatten(1)
        if self._point:
            read = tape.hidden(read)
        elif self._cut:
            read = read.detach()
        deep = self.top(self.mlp(read, tape))
        return tape.output(self.first_order(fields) + pairwise(embedded) + deep)[:, 0]


class DeepCross(ClickModel):
    """Deep & Cross (Wang et al. 2017): cross layers beside an MLP, both on the embeddings.

    A cross layer's feedback point is its output, as wide as all embeddings together.
    """

    def __init__(
        self,
        fields: int,
        values: int,
        rule: str,
        width: int = 16,
        mlp: list[int] | None = None,
        dropout: float = 0.0,
        norm: str = "batch",
        sparse: bool = False,
        cross_layers: int = 6,
        **options: Any,
    ) -> None:
        mlp = mlp or [1024] * 2
        super().__init__(fields, values, width, mlp, dropout, norm, sparse)
        self.cross = nn.ModuleList(Cross(self.flat) for _ in range(cross_layers))
        self.top = nn.Linear(self.flat + mlp[-1], 1)
        self.feedback_widths = [self.flat] * (1 + cross_layers) + mlp
        self.rule = make_rule(rule, 1, self.feedback_widths, **options).prepare(self)

    def forward(self, fields: Int[Tensor, "rows F"]) -> Float[Tensor, " rows"]:
        tape = self.rule.tape()
        first = x = tape.hidden(self.embedding(fields).flatten(1))
        for layer in self.cross:
            x = tape.hidden(layer(first, x))
        return tape.output(self.top(torch.cat([x, self.mlp(first, tape)], dim=1)))[:, 0]


class AFN(ClickModel):
    """Adaptive factorization network (Cheng et al. 2020): logarithmic neurons, an MLP, and a first-order term.

    The embedding learns by the feedback at its logarithms, not at itself: a neuron reads ln |x|, of which the same
    change means more x for one value and less for another, by the sign that x happens to have.
    """

    def __init__(
        self,
        fields: int,
        values: int,
        rule: str,
        width: int = 10,
        mlp: list[int] | None = None,
        dropout: float = 0.0,
        norm: str = "batch",
        sparse: bool = False,
        neurons: int = 1500,
        **options: Any,
    ) -> None:
        mlp = mlp or [400] * 3
        super().__init__(fields, values, width, [], dropout, norm, sparse)
        self.first_order = FirstOrder(values, sparse)
        self.logarithms, self.powers = Logarithms(fields), Powers(fields, neurons)
        self.mlp = MLP(neurons * width, mlp, dropout, norm)
        self.top = nn.Linear(mlp[-1], 1, bias=False)
        self.feedback_widths = [self.flat, neurons * width, *mlp]
        self.rule = make_rule(rule, 1, self.feedback_widths, **options).prepare(self)

    def forward(self, fields: Int[Tensor, "rows F"]) -> Float[Tensor, " rows"]:
        tape = self.rule.tape()
        h = self.logarithms(self.embedding(fields))
        read = tape.hidden(h.flatten(1)).view_as(h)
        x = tape.hidden(self.powers(read).flatten(1))
        return tape.output(self.first_order(fields) + self.top(self.mlp(x, tape)))[:, 0]


class AutoInt(ClickModel):
    """Self-attention over the fields beside an MLP (Song et al. 2019), and a first-order term."""

    def __init__(
        self,
        fields: int,
        values: int,
        rule: str,
        width: int = 16,
        mlp: list[int] | None = None,
        dropout: float = 0.0,
        norm: str = "batch",
        sparse: bool = False,
        attention_width: int = 32,
        attention_layers: int = 3,
        heads: int = 2,
        **options: Any,
    ) -> None:
        mlp = mlp or [400] * 3
        super().__init__(fields, values, width, mlp, dropout, norm, sparse)
        self.first_order = FirstOrder(values, sparse)
        inputs = [width, *[attention_width] * (attention_layers - 1)]
        self.attention = nn.ModuleList(Interacting(below, attention_width, heads) for below in inputs)
        attended = fields * attention_width
        self.top = nn.Linear(attended + mlp[-1], 1, bias=False)
        self.feedback_widths = [self.flat, *[attended] * attention_layers, *mlp]
        self.rule = make_rule(rule, 1, self.feedback_widths, **options).prepare(self)

    def forward(self, fields: Int[Tensor, "rows F"]) -> Float[Tensor, " rows"]:
        tape = self.rule.tape()
        embedded = self.embedding(fields)
        read = tape.hidden(embedded.flatten(1))
        x = read.view_as(embedded)
        for layer in self.attention:
            h = layer(x)
            x = tape.hidden(h.flatten(1)).view_as(h)
        deep = torch.cat([x.flatten(1), self.mlp(read, tape)], dim=1)
        return tape.output(self.first_order(fields) + self.top(deep))[:, 0]


MODELS: dict[str, type[ClickModel]] = {"fm": FM, "deepfm": DeepFM, "dcn": DeepCross, "afn": AFN, "autoint": AutoInt}
