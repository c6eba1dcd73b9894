"""The network of krrish94/nerf-pytorch, and of the release of the paper on direct feedback alignment, built on it.

Both save the same parameters under the same names, in another order, which tells them apart:

    layer1, layers_xyz.0 ...      the layers that read the position      here pts_linears.0, pts_linears.1 ...
    fc_alpha, fc_feat             density, and the layer behind it       here alpha_linear, feature_linear
    layers_dir.0, fc_rgb          the layer with the direction, colour   here views_linears.0, rgb_linear
    fc_out                        colour and density without directions  here output_linear

Both have a ReLU after fc_feat, which fc_alpha does not see; layer1 has one in the release only. The skip connections
that their configs ask for do not exist in the published networks: the width and depth in a config were never read,
and a network deep enough to have a skip connection fails in their forward pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from nerf_dfa.errors import UserError
from nerf_dfa.fields.encodings import encoded_width

COARSE, FINE = "model_coarse_state_dict", "model_fine_state_dict"
NAMES = {
    "layer1": "pts_linears.0",
    "fc_alpha": "alpha_linear",
    "fc_feat": "feature_linear",
    "layers_dir.0": "views_linears.0",
    "fc_rgb": "rgb_linear",
    "fc_out": "output_linear",
}
LAYERS = "layers_xyz."


@dataclass(frozen=True)
class Shape:
    """A network's size, read off its tensors. multires_views: None without view directions."""

    depth: int
    width: int
    multires: int
    multires_views: int | None
    parameters: int


def is_checkpoint(contents: dict[str, Any]) -> bool:
    return COARSE in contents


def model_class(state: dict[str, Tensor]) -> str | None:
    """Name of the class that wrote the weights, by their order; None where something has put them in another one."""
    order = [name.removesuffix(".weight") for name in state if name.endswith(".weight")]
    end = order[order.index("layer1") + 1 :] if order[:1] == ["layer1"] else []
    match [name for name in end if not name.startswith(LAYERS)]:
        case ["fc_alpha", "fc_feat", "layers_dir.0", "fc_rgb"]:
            return "DFAFlexibleNeRFModel"
        case ["layers_dir.0", "fc_alpha", "fc_rgb", "fc_feat"] | ["fc_out"]:
            return "FlexibleNeRFModel"
    return None


def own_weights(state: dict[str, Tensor], what: str) -> dict[str, Tensor]:
    """The weights under this program's names, in float32.

    what: the file and the network, for the message.

    Raises:
        UserError: a name is unknown, a value is no tensor or not finite.
    """
    renamed = {}
    for name, value in state.items():
        stem, _, kind = name.rpartition(".")
        number = stem.removeprefix(LAYERS)
        if stem.startswith(LAYERS) and number.isdecimal():
            stem = f"pts_linears.{int(number) + 1}"
        elif stem in NAMES:
            stem = NAMES[stem]
        else:
            raise UserError(f"{what} has '{name}', which the networks known here lack; known are {', '.join(NAMES)}")
        if not isinstance(value, Tensor):
            raise UserError(f"{what}: '{name}' is a {type(value).__name__}; expected a tensor")
        if not value.isfinite().all():
            raise UserError(f"{what}: '{name}' holds values that are not finite")
        renamed[f"{stem}.{kind}"] = value.float()
    return renamed


def shape_of(state: dict[str, Tensor], what: str) -> Shape:
    """The size of a network from its weights, under their own names.

    Raises:
        UserError: a weight is missing, or its shape fits no network that this program has.
    """

    def weight(name: str) -> tuple[int, int]:
        if f"{name}.weight" not in state:
            raise UserError(f"{what} has no '{name}.weight'")
        shape = tuple(state[f"{name}.weight"].shape)
        if len(shape) != 2:
            raise UserError(f"{what}: '{name}.weight' is {shape}; expected a matrix")
        return shape

    width, encoded = weight("layer1")
    layers = [name for name in state if name.startswith(LAYERS) and name.endswith(".weight")]
    multires_views = None
    if "fc_out.weight" not in state:
        multires_views = _frequencies(weight("layers_dir.0")[1] - width, f"{what}: 'layers_dir.0.weight'")
    return Shape(
        depth=1 + len(layers),
        width=width,
        multires=_frequencies(encoded, f"{what}: 'layer1.weight'"),
        multires_views=multires_views,
        parameters=sum(value.numel() for value in state.values()),
    )


def _frequencies(width: int, what: str) -> int:
    """Frequencies of an encoding of 3 coordinates with the raw input in front, from its width."""
    frequencies = (width - 3) // 6
    if frequencies < 0 or encoded_width(3, frequencies) != width:
        raise UserError(
            f"{what} reads {width} numbers for each point; an encoding with its raw input has 3 + 6 for each frequency"
        )
    return frequencies


def networks(contents: dict[str, Any], path: Path) -> dict[str, dict[str, Tensor]]:
    """The state dicts that the checkpoint holds, as "coarse" and, where there is one, "fine"."""
    found = {}
    for name, key in (("coarse", COARSE), ("fine", FINE)):
        state = contents.get(key)
        if not state and name == "fine":
            continue
        if not isinstance(state, dict) or not state:
            raise UserError(f"{path}: '{key}' is not a network's weights")
        found[name] = state
    return found
