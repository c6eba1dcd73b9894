"""The bottleneck experiment: a layer can align with its feedback only if the layers around it can follow.

Launay et al. 2019, figure 4: in a network of three hidden layers a fixed random set of the second layer's neurons is
held by zeroing their gradients. Accuracy and alignment are shown against the number of neurons left free.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from nerf_dfa.classification import Settings
from nerf_dfa.errors import UserError
from nerf_dfa.experiments import tables
from nerf_dfa.experiments.practices import Study, read_study, run_study

WIDTH = 128  # 800 in the paper, on CIFAR-10
FREE = (0, 2, 5, 10, 25, 50, 128)


def study() -> Study:
    """The paper's experiment at the size of the digits; bp, whose signals pass the held layer whole, as a control."""
    base = Settings(width=WIDTH, depth=3, activation="tanh")
    rows = tuple((str(free), replace(base, free=free)) for free in FREE)
    return Study(
        "bottleneck", "Free neurons of the second layer", "free", rows, ("bp", "dfa"), (1e-3, 3e-3, 1e-2), seeds=5
    )


def bottleneck(arguments: argparse.Namespace) -> None:
    """The paper's experiment, or that of a config with factor = free."""
    asked = read_study(arguments.config) if arguments.config else study()
    if asked.factor != "free":
        raise UserError(f"{arguments.config}: factor = {asked.factor}: the bottleneck experiment varies free")
    result = run_study(asked.with_budget(arguments.steps, arguments.seeds), arguments.out, arguments.datadir)
    print(tables.write(result, arguments.out))
