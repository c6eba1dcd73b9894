"""Click models with their feedback points; each takes indices of one table and gives logits.

| model     | feedback points                                         | exact gradient under every rule            |
|-----------|---------------------------------------------------------|--------------------------------------------|
| `fm`      | none                                                    | everything                                 |
| `deepfm`  | the MLP's blocks; if asked for the embedding, the first | first order, top layer, embedding (by FM)  |
| `dcn`     | embedding, cross layers, the MLP's blocks               | top layer                                  |
| `afn`     | logarithms (unless kp, mirror), neurons, MLP's blocks   | first order, top layer                     |
| `autoint` | embedding, attention layers, the MLP's blocks           | first order, top layer                     |

A feedback point lies behind a block's dropout. The error that direct feedback spreads is that at the logit: one number
a row, so that a layer's signals in a batch all lie on one line. Where a layer has no feedback point and its input is
cut (deepfm's MLP reads the embedding), nothing is sent to what lies below.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nerf_dfa.learning import make_rule
from nerf_dfa.learning.sequential import SequentialLinear
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
EmbeddingGradient = Literal["feedback", "kp", "mirror"]


@dataclass(frozen=True)
class Shape:
    """Sizes and kinds that the models have in common.

    fields, values: number of fields, and of all their values; width: D of the embedding; mlp: widths of the MLP's
    blocks, with dropout and norm; sparse: of the embedding's gradient.
    """

    fields: int
    values: int
    width: int = 10
    mlp: tuple[int, ...] = (400, 400, 400)
    dropout: float = 0.0
    norm: str = "batch"
    sparse: bool = False

    @property
    def flat(self) -> int:
        """Width of all embeddings of a row together."""
        return self.fields * self.width

    def blocks(self, inputs: int) -> MLP:
        """The MLP on so many inputs."""
        return MLP(inputs, self.mlp, self.dropout, self.norm)


class ClickModel(nn.Module):
    """Base of the models. mean: of the embedding at the start; options: of the rule.

    feedback_widths: of the feedback points, in order.
    """

    feedback_widths: list[int]

    def __init__(self, shape: Shape, mean: float = 0.0) -> None:
        super().__init__()
        self.embedding = FieldEmbedding(shape.values, shape.width, STD, shape.sparse, mean)

    def forward(self, fields: Int[Tensor, "rows F"]) -> Float[Tensor, " rows"]:
        raise NotImplementedError


class FM(ClickModel):
    """Factorization machine (Rendle 2010). It has no hidden layer, so that every rule is backpropagation."""

    def __init__(self, shape: Shape, rule: str) -> None:
        super().__init__(shape)
        if rule != "bp":
            raise ValueError(f"fm has no hidden layer for '{rule}' to teach; its rule is bp")
        self.first_order = FirstOrder(shape.values, shape.sparse)

    def forward(self, fields: Int[Tensor, "rows F"]) -> Float[Tensor, " rows"]:
        return (self.first_order(fields) + pairwise(self.embedding(fields)))[:, 0]


class DeepFM(ClickModel):
    """An FM and an MLP on its embeddings (Guo et al. 2017).

    embedding_point: the embedding learns by feedback too, beside its exact gradient through the FM.
    """

    def __init__(self, shape: Shape, rule: str, embedding_point: bool = False, **options: Any) -> None:
        super().__init__(shape)
        self.mlp = shape.blocks(shape.flat)
        self.first_order = FirstOrder(shape.values, shape.sparse)
        self.top = nn.Linear(shape.mlp[-1], 1, bias=False)
        self._cut, self._point = rule != "bp", embedding_point
        self.feedback_widths = [shape.flat] * embedding_point + list(shape.mlp)
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

    def __init__(self, shape: Shape, rule: str, cross_layers: int = 6, **options: Any) -> None:
        super().__init__(shape)
        self.mlp = shape.blocks(shape.flat)
        self.cross = nn.ModuleList(Cross(shape.flat) for _ in range(cross_layers))
        self.top = nn.Linear(shape.flat + shape.mlp[-1], 1)
        self.feedback_widths = [shape.flat] * (1 + cross_layers) + list(shape.mlp)
        self.rule = make_rule(rule, 1, self.feedback_widths, **options).prepare(self)

    def forward(self, fields: Int[Tensor, "rows F"]) -> Float[Tensor, " rows"]:
        tape = self.rule.tape()
        first = x = tape.hidden(self.embedding(fields).flatten(1))
        for layer in self.cross:
            x = tape.hidden(layer(first, x))
        return tape.output(self.top(torch.cat([x, self.mlp(first, tape)], dim=1)))[:, 0]


class AFN(ClickModel):
    """Adaptive factorization network (Cheng et al. 2020): logarithmic neurons, an MLP, and a first-order term.

    embedding_gradient: "feedback": the embedding learns by the feedback at its logarithms, not at itself: a neuron
    reads ln |x|, of which the same change means more x for one value and less for another, by the sign that x happens
    to have. "kp", "mirror": there is no such feedback point, and the logarithms get the neurons' own signal times a
    matrix that learns to be like their powers (learning/sequential.py), so that what they get depends on the other
    fields of the row.

    embedding_mean: at the start. Of 1, values of x lie away from 0, where ln |x| is steep and its sign may turn.
    """

    def __init__(
        self,
        shape: Shape,
        rule: str,
        neurons: int = 1500,
        embedding_gradient: EmbeddingGradient = "feedback",
        embedding_mean: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(shape, embedding_mean)
        self.first_order = FirstOrder(shape.values, shape.sparse)
        self.logarithms, self.powers = Logarithms(shape.fields), Powers(shape.fields, neurons)
        self.mlp = shape.blocks(neurons * shape.width)
        self.top = nn.Linear(shape.mlp[-1], 1, bias=False)
        self._point = embedding_gradient == "feedback"
        if not self._point:
            self.powers.powers = SequentialLinear(self.powers.powers, embedding_gradient)
        self.feedback_widths = [shape.flat] * self._point + [neurons * shape.width, *shape.mlp]
        self.rule = make_rule(rule, 1, self.feedback_widths, **options).prepare(self)

    def forward(self, fields: Int[Tensor, "rows F"]) -> Float[Tensor, " rows"]:
        tape = self.rule.tape()
        h = self.logarithms(self.embedding(fields))
        if self._point:
            h = tape.hidden(h.flatten(1)).view_as(h)
        x = tape.hidden(self.powers(h).flatten(1))
        return tape.output(self.first_order(fields) + self.top(self.mlp(x, tape)))[:, 0]


class AutoInt(ClickModel):
    """Self-attention over the fields beside an MLP (Song et al. 2019), and a first-order term."""

    def __init__(
        self,
        shape: Shape,
        rule: str,
        attention_width: int = 32,
        attention_layers: int = 3,
        heads: int = 2,
        **options: Any,
    ) -> None:
        super().__init__(shape)
        self.mlp = shape.blocks(shape.flat)
        self.first_order = FirstOrder(shape.values, shape.sparse)
        inputs = [shape.width, *[attention_width] * (attention_layers - 1)]
        self.attention = nn.ModuleList(Interacting(below, attention_width, heads) for below in inputs)
        attended = shape.fields * attention_width
        self.top = nn.Linear(attended + shape.mlp[-1], 1, bias=False)
        self.feedback_widths = [shape.flat, *[attended] * attention_layers, *shape.mlp]
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
