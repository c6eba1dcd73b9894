"""yenchenlin/nerf-pytorch: what differs between its run folders and checkpoints and this program's.

Parameters, checkpoint entries and flags have the same names, so that its configs and weights are read as they are,
and it reads this program's checkpoints of the MLP field with view directions. What has to be known beside them: its
density is a ReLU, its rays pass through the upper left corners of the pixels, and it learns by backpropagation.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

CODE = "nerf-pytorch"

# What its rendering takes for granted, as this program's options.
RENDERING = {"density_activation": "relu", "pixel_offset": 0.0}

COARSE, FINE = "network_fn_state_dict", "network_fine_state_dict"

# An entry that it never writes, and this program always does.
OWN_ENTRY = "learning_rule_state_dict"


def is_checkpoint(contents: dict[str, Any]) -> bool:
    """Whether a checkpoint is nerf-pytorch's, not this program's."""
    return COARSE in contents and OWN_ENTRY not in contents


def is_args(text: str) -> bool:
    """Whether an args.txt is nerf-pytorch's, not this program's, which always names the learning rule."""
    return bool(text.strip()) and "learning_rule" not in _table(text)


def own_args(text: str) -> str:
    """nerf-pytorch's args.txt, a dump of all its flags, in this program's words.

    Left out: what was not set (None), the path of the config, a resolution of videos divided by 0, the shape of
    DeepVoxels scenes where there is none, and the size of a fine network where there is none.
    """
    table = {key: value for key, value in _table(text).items() if value not in ("None", "")}
    table.pop("config", None)
    if table.get("render_factor") == "0":
        del table["render_factor"]
    if table.get("dataset_type") != "deepvoxels":
        table.pop("shape", None)
    if table.get("N_importance") == "0":
        table = {key: value for key, value in table.items() if not key.endswith("_fine")}
    if table.get("dataset_type") == "blender":
        table |= {"near": "2.0", "far": "6.0"}  # whatever the scene's files say
    table |= {"learning_rule": "bp"} | {key: str(value) for key, value in RENDERING.items()}
    return "".join(f"{key} = {value}\n" for key, value in table.items())


def own_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of its network without those that it never uses.

    Without view directions it holds an idle layer for them, and an output layer with a fifth, idle output.
    """
    if "output_linear.weight" not in state:
        return dict(state)
    used = {name: value for name, value in state.items() if not name.startswith("views_linears.")}
    for name in ("output_linear.weight", "output_linear.bias"):
        if name in used:
            used[name] = used[name][:4]
    return used


def _table(text: str) -> dict[str, str]:
    """Keys and values of `key = value` lines; other lines are left out."""
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line and not line.lstrip().startswith("#"))
    return {key.strip(): value.strip() for key, value in pairs}
