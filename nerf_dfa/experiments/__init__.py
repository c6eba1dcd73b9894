"""Experiments: `python -m nerf_dfa.experiments NAME` measures, and writes a table, a plot and the numbers behind them.

A new experiment is a function (arguments) -> None in EXPERIMENTS.
"""

from nerf_dfa.experiments import bottleneck, practices, views

VIEWS = ("rules", "gap", "levers", "tiny-nerf", "dual", "xl", "alignment", "table-a5", "size", "seeds")
EXPERIMENTS = {
    "practices": practices.practices,
    "bottleneck": bottleneck.bottleneck,
    **dict.fromkeys(VIEWS, views.views),
}

__all__ = ["EXPERIMENTS", "VIEWS"]
