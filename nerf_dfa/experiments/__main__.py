"""python -m nerf_dfa.experiments NAME [--config FILE] [--out DIR] [--datadir DIR] [--steps N] [--seeds N] ..."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from nerf_dfa.experiments import EXPERIMENTS, VIEWS
from nerf_dfa.training.devices import keep_freed_memory
from nerf_dfa.training.program import positive, run_program


def main(argv: list[str] | None = None) -> int:
    """Runs an experiment; exit status 0, 2 for a user's mistake (one line), 130 when interrupted."""
    parser = argparse.ArgumentParser(prog="python -m nerf_dfa.experiments", description=__doc__)
    parser.add_argument("name", choices=EXPERIMENTS, help="which experiment")
    parser.add_argument(
        "--config", type=Path, help="file that states it; practices needs one (configs/learning), those of view "
        "synthesis have configs/experiments/NAME.txt"
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, default=Path("results"), help="folder of the results (default: %(default)s)"
    )
    parser.add_argument(
        "--datadir", help="folder of the Fashion-MNIST files, for dataset = fashion; of nerf_synthetic and "
        "nerf_llff_data for view synthesis (default: scenes)"
    )  # fmt: skip
    parser.add_argument(
        "--columns", "--scenes", nargs="+", metavar="COLUMN", help="view synthesis: these columns alone"
    )  # fmt: skip
    parser.add_argument(
        "--flags", metavar="TEXT", help="view synthesis: train.py's flags for all runs, --flags='--testskip 25'"
    )  # fmt: skip
    parser.add_argument("--steps", type=positive, help="training steps of every run, in place of the config's")
    parser.add_argument("--seeds", type=positive, help="how many seeds, in place of the config's")
    parser.add_argument(
        "--jobs",
        type=positive,
        default=1,
        help="view synthesis: runs at a time, each a process (default: %(default)s)",
    )
    parser.add_argument("--threads", type=positive, default=1, help="of torch; more hardly help at this size")
    arguments = parser.parse_args(argv)
    if arguments.name not in VIEWS and (arguments.columns or arguments.flags or arguments.jobs > 1):
        parser.error(f"--columns, --flags and --jobs have no effect on {arguments.name}; leave them out")
    if arguments.threads > 1 and arguments.jobs > 1:
        parser.error("with --jobs every run has one thread; leave --threads out")
    torch.set_num_threads(arguments.threads)
    return run_program("experiments", lambda: EXPERIMENTS[arguments.name](arguments))


if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(main())
