"""Experiments: `python -m nerf_dfa.experiments NAME` measures, and writes a table, a plot and the numbers behind them.

A new experiment is a function (arguments) -> None in EXPERIMENTS.
"""

from nerf_dfa.experiments import bottleneck, practices

EXPERIMENTS = {"practices": practices.practices, "bottleneck": bottleneck.bottleneck}

__all__ = ["EXPERIMENTS"]
