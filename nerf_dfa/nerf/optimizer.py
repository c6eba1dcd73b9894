"""Adam, for hdfa one of each kind of step; and rates and warm-up, which differ from parameter to parameter."""

from __future__ import annotations

from typing import Any

import torch

from nerf_dfa.learning.hybrid import HybridAdam
from nerf_dfa.nerf.model import RULE_PREFIX
from nerf_dfa.nerf.options import Options
from nerf_dfa.rendering import RadianceModel


def make_optimizer(model: RadianceModel, options: Options, seed: int = 0) -> torch.optim.Optimizer:
    """Adam over all of the model's parameters; see `parameter_groups`. seed: of which steps of hdfa are exact.

    fused: one kernel for all parameters. eps 1e-8 is Adam's own; gradients of a NeRF are often that small.
    """
    groups, betas = parameter_groups(model, options), (0.9, options.beta2)
    if options.learning_rule == "hdfa":
        # mix 1: bp's momentum in the direct steps, half of it, costs 0.6 dB (docs/results.md).
        return HybridAdam(model, options.lrate, options.exact_share, mix=1.0, betas=betas, seed=seed, groups=groups)
    kind = torch.optim.AdamW if options.weight_decay else torch.optim.Adam
    return kind(groups, lr=options.lrate, betas=betas, fused=True, weight_decay=options.weight_decay)


def parameter_groups(model: RadianceModel, options: Options) -> list[dict[str, Any]]:
    """Groups of parameters that are treated alike: `rate_scale` times the rate, from step `start` on, `weight_decay`.

    Matrices of the networks decay, apart from their gradient (AdamW); biases do not, nor what a rule learns by itself,
    nor grids, of which a step touches few entries.

    One group, in the parameters' order, where nothing differs, as other programs' checkpoints have it.
    """
    groups: dict[tuple[float, int, float], list[torch.nn.Parameter]] = {}
    for field in model.fields.values():
        heads = {id(parameter) for head in field.heads() for parameter in head.parameters()}
        for name, parameter in field.named_parameters():
            role = "head" if id(parameter) in heads else _role(name)
            decays = role in ("hidden", "head") and parameter.dim() > 1
            decay = options.weight_decay if decays else 0.0
            groups.setdefault((*_treatment(role, options), decay), []).append(parameter)
    return [
        {"params": group, "rate_scale": scale, "start": start, "weight_decay": decay}
        for (scale, start, decay), group in groups.items()
    ]


def _role(name: str) -> str:
    return "feedback" if name.startswith(RULE_PREFIX) else "grid" if name.startswith("grids.") else "hidden"


def _treatment(role: str, options: Options) -> tuple[float, int]:
    rates = {"feedback": options.feedback_lrate, "grid": options.grid_lrate}
    rate = rates.get(role)
    return (1.0 if rate is None else rate / options.lrate, options.warmup if role in ("hidden", "grid") else 0)
