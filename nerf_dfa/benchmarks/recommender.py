"""What click prediction costs: rows a second of preprocessing, of reading the cache, and of training by BP and DFA.

python -m nerf_dfa.benchmarks.recommender --rows 1000000
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from nerf_dfa.benchmarks.measure import interleaved, print_result
from nerf_dfa.machine import machine

if find_spec("sklearn") is None:
    sys.exit("recommender: error: this needs scikit-learn: pip install -e '.[recommender]'")

from nerf_dfa.recommender.cache import make_cache
from nerf_dfa.recommender.criteo import Criteo
from nerf_dfa.recommender.data import Data
from nerf_dfa.recommender.settings import Settings
from nerf_dfa.recommender.synthetic import write_criteo
from nerf_dfa.recommender.task import make_trainer
from nerf_dfa.training.program import positive

MIN_COUNT = 10


def measure(rows: int, models: list[str], steps: int, rounds: int) -> dict[str, Any]:
    """rows: of the synthetic file in Criteo's format; steps: of a timed piece of training."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_criteo(folder / "train.txt", rows)
        size = (folder / "train.txt").stat().st_size
        start = time.perf_counter()
        cache = make_cache(Criteo(folder), folder / "cache", MIN_COUNT, quiet=True)
        preprocessing = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        data = Data(cache)
        start = time.perf_counter()
        read = sum(len(data.batch(0, i, 2048, 0).labels) for i in range(data.epoch_steps(2048)))
        reading = time.perf_counter() - start
        return {
            "machine": machine(),
            "rows": rows,
            "file_bytes": size,
            "cache_bytes_per_row": cache.layout.bytes,
            "values": sum(cache.layout.sizes),
            "preprocessing": {
                "seconds": round(preprocessing, 2),
                "rows_per_second": round(rows / preprocessing),
                "peak_bytes_of_process": peak,
            },
            "reading_rows_per_second": round(read / reading),
            "training_rows_per_second": {model: _training(model, data, steps, rounds) for model in models},
        }


def _training(model: str, data: Data, steps: int, rounds: int) -> dict[str, int]:
    """By rule and gradient of the embedding, reading the batches included; the paper's sizes."""
    width = 10 if model in ("deepfm", "afn") else 16
    base = Settings(model=model, learning_rule="bp", min_count=MIN_COUNT, embedding=width)
    if model == "dcn":
        base = replace(base, mlp_width=1024, mlp_blocks=2, batch=512)
    rules = ("bp", "dfa") if model != "fm" else ("bp",)
    pieces = {}
    for rule in rules:
        for gradient in ("dense", "sparse"):
            trainer = make_trainer(replace(base, learning_rule=rule, gradient=gradient), data, 0)
            pieces[f"{rule}, {gradient}"] = lambda trainer=trainer: trainer.run(trainer.finished + steps)
    seconds = interleaved(pieces, rounds)
    return {name: round(steps * base.batch / value) for name, value in seconds.items()}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=positive, default=1_000_000, help="[%(default)s]")
    parser.add_argument("--models", default="deepfm", help="with commas: fm, deepfm, dcn, afn, autoint [%(default)s]")
    parser.add_argument("--steps", type=positive, default=20, help="of a timed piece [%(default)s]")
    parser.add_argument("--rounds", type=positive, default=3, help="[%(default)s]")
    parser.add_argument("--threads", type=positive, help="of torch [as it has]")
    arguments = parser.parse_args(argv)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    models = arguments.models.split(",")
    return print_result("recommender", lambda: measure(arguments.rows, models, arguments.steps, arguments.rounds))


if __name__ == "__main__":
    sys.exit(main())
