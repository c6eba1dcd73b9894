"""Flags of train.py that go by one name."""

from __future__ import annotations

from nerf_dfa.learning import RULES

# Flags by one name: above the config file, below those of the command line.
PRESETS = {
    # The method and the network of Launay et al. 2020, nerf-pytorch's optimiser; steps are the config's.
    "paper": "--field mlp --learning_rule dfa --feedback uniform --netdepth 4 --netwidth 128 --netdepth_fine 4 "
    "--netwidth_fine 128 --use_viewdirs --feature_relu --density_activation relu --output_bias random "
    "--N_samples 64 --N_importance 128 --occupancy 0 --multires 10 --multires_views 4 --lrate 5e-4 --lrate_warmup 0 "
    "--beta2 0.999",
    # The best that was measured without transporting a weight, directly and from layer to layer: docs/results.md.
    "dfa-best": "--learning_rule mdfa --probe_first 100 --probe_every 2 --probe_average 0.2 --feedback_outputs own "
    "--feedback_block 4 --grid_gradient mirror --error_kept 0.9999 --output_bias mean",
    "mirror-best": "--learning_rule kp_mirror --error_kept 0.9999 --output_bias mean",
}

# What `learning` makes flags of.
LEARNERS = [*RULES, "dfa-best", "mirror-best"]


def learning(name: str) -> list[str]:
    """The flags of a learning rule, or of the preset that is one with all that belongs to it."""
    return ["--preset" if name in PRESETS else "--learning_rule", name]
