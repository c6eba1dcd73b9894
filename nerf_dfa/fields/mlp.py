"""The network of the NeRF paper, 10 layers deep from position to colour."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nerf_dfa.fields.encodings import encoded_width, positional_encoding
from nerf_dfa.fields.field import COLOUR, Activation, DensityActivation, Field, activated, joint_linear
from nerf_dfa.learning import make_rule
from nerf_dfa.learning.sequential import SequentialLinear
from nerf_dfa.learning.tapes import Tape

SKIP_AFTER = 4  # the encoded position is read again by the layer after this one (counted from 0)


class MLPField(Field):
    """NeRF's MLP (figure 7 of the paper), with parameter names as in nerf-pytorch.

        encoded position -> `depth` layers of `width`, ReLU, the position again after the fifth
                         -> density (alpha_linear)
                         -> feature layer, no activation (feature_linear)
        feature, encoded direction -> one layer of width // 2, ReLU (views_linears) -> colour (rgb_linear)

    Feedback points: after every ReLU and after the feature layer. The heads have their exact gradient.
    Without view directions one linear layer (output_linear) reads colour and density off the last hidden layer.

    Networks of other programs differ in three places: linear_first leaves out the ReLU after the first layer,
    feature_relu puts one after the feature layer, and with skip = False the position is read once only.
    own_outputs: direct feedback to the layers between density and colour is of the colour's error alone.
    feedback_block: of so many layers between position and density only the highest is a feedback point, counted from
    the top; the others get the delta of the layer above, through a matrix that mirrors its weights (sequential.py).
    """

    def __init__(
        self,
        depth: int = 8,
        width: int = 256,
        position_frequencies: int = 10,
        direction_frequencies: int = 4,
        use_viewdirs: bool = True,
        learning_rule: str = "bp",
        density_activation: DensityActivation = "softplus",
        activation: Activation = "relu",
        rule_options: dict | None = None,
        linear_first: bool = False,
        feature_relu: bool = False,
        skip: bool = True,
        own_outputs: bool = False,
        feedback_block: int = 1,
    ) -> None:
        super().__init__(density_activation)
        self.position_frequencies = position_frequencies
        self.direction_frequencies = direction_frequencies
        self.use_viewdirs = use_viewdirs
        self.width = width
        self.activation: Activation = activation
        self.linear_first = linear_first
        self.feature_relu = feature_relu
        encoded = encoded_width(3, position_frequencies)
        self.skips = frozenset({SKIP_AFTER} if skip and depth > SKIP_AFTER + 1 else ())
        inputs = [encoded] + [width + encoded if i in self.skips else width for i in range(depth - 1)]
        self.pts_linears = nn.ModuleList(nn.Linear(n, width) for n in inputs)
        self.direct = [(depth - 1 - i) % feedback_block == 0 for i in range(depth)]
        for below, layer in enumerate(self.pts_linears[1:]):
            if not self.direct[below]:
                self.pts_linears[below + 1] = SequentialLinear(layer, "kp_mirror")
        trunk = sum(self.direct)
        hidden = [width] * trunk
        if use_viewdirs:
            half = width // 2
            self.views_linears = nn.ModuleList([nn.Linear(width + encoded_width(3, direction_frequencies), half)])
            self.feature_linear = nn.Linear(width, width)
            self.alpha_linear = nn.Linear(width, 1)
            self.rgb_linear = nn.Linear(half, 3)
            hidden += [width, half]
        else:
            self.output_linear = nn.Linear(width, 4)
        reach = [None] * trunk + [COLOUR] * (len(hidden) - trunk) if own_outputs else []
        self.rule = make_rule(learning_rule, 4, hidden, reach, **(rule_options or {})).prepare(self)

    def heads(self) -> list[nn.Linear]:
        return [self.rgb_linear, self.alpha_linear] if self.use_viewdirs else [self.output_linear]

    def output_biases(self) -> tuple[Float[Tensor, " 3"], Float[Tensor, " 1"]]:
        if not self.use_viewdirs:
            return self.output_linear.bias[:3], self.output_linear.bias[3:]
        return self.rgb_linear.bias, self.alpha_linear.bias

    def raw(
        self, positions: Float[Tensor, "*batch 3"], directions: Float[Tensor, "*#batch 3"]
    ) -> Float[Tensor, "*batch 4"]:
        tape = self.rule.tape()
        x = self._trunk(positions, tape)
        if not self.use_viewdirs:
            return tape.output(self.output_linear(x)).float()
        sigma = self.alpha_linear(x)
        feature = self.feature_linear(x)
        feature = activated(tape, feature, self.activation) if self.feature_relu else tape.hidden(feature)
        encoded = positional_encoding(directions, self.direction_frequencies)
        x = activated(tape, joint_linear(self.views_linears[0], feature, encoded), self.activation)
        return tape.output(torch.cat([self.rgb_linear(x), sigma], dim=-1)).float()

    def raw_density(self, positions: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch"]:
        x = self._trunk(positions, Tape())
        return (self.alpha_linear(x)[..., 0] if self.use_viewdirs else self.output_linear(x)[..., 3]).float()

    def _trunk(self, positions: Float[Tensor, "*batch 3"], tape: Tape) -> Float[Tensor, "*batch width"]:
        """The last of the layers that read the position alone."""
        encoded = positional_encoding(positions, self.position_frequencies)
        x = encoded
        for i, layer in enumerate(self.pts_linears):
            here = tape if self.direct[i] else Tape()
            x = here.hidden(layer(x)) if i == 0 and self.linear_first else activated(here, layer(x), self.activation)
            if i in self.skips:
                x = torch.cat([encoded.to(x.dtype), x], dim=-1)
        return x
