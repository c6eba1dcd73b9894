"""Time of a training step of the Transformer under each learning rule.

    python -m nerf_dfa.benchmarks.language [--layers 4] [--width 128] [--vocabulary 4000] [--batch 8] [--rounds 15]

A step is forward, loss, backward, clipping and Adam, on tokens that are random. All variants take turns in one
process, one after the other in every round. `hashed`, `uniform`: the feedback matrix. Ratios: bp's step over the
variant's, of the least times; above 1 is faster. FLOPs: of matrix products, as torch counts them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from nerf_dfa.benchmarks.measure import interleaved, operations, print_result
from nerf_dfa.language.optimizers import make_optimizer
from nerf_dfa.language.settings import Settings
from nerf_dfa.language.task import make_model
from nerf_dfa.machine import machine
from nerf_dfa.training.devices import choose_device, keep_freed_memory

VARIANTS: dict[str, dict[str, Any]] = {
    "bp": {"learning_rule": "bp"},
    "dfa macro, hashed": {"feedback": "hashed", "feedback_buckets": 256},
    "dfa macro, uniform": {},
    "dfa macro, error at the decoder's input": {"error_at": "decoder_input"},
    "dfa micro, hashed": {"feedback": "hashed", "feedback_buckets": 256, "dfa_placement": "micro"},
    "dfa micro, uniform": {"dfa_placement": "micro"},
    "dkp macro": {"learning_rule": "dkp"},
    "shallow": {"learning_rule": "shallow"},
}


def make_step(settings: Settings, device: torch.device) -> Callable[[], None]:
    """A training step on always the same tokens."""
    torch.manual_seed(0)
    model = make_model(settings).to(device)
    optimizer = make_optimizer("adam", [{"params": list(model.parameters())}], 0.999, 0.5, model.network())
    rows = torch.randint(settings.vocabulary, (settings.batch, settings.chunk + 1), device=device)

    def step() -> None:
        loss = F.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def run(settings: dict[str, Any], rounds: int, device: str) -> dict[str, Any]:
    """All measurements as one JSON-ready object; times in ms."""
    where = choose_device(device)
    steps = {name: make_step(Settings(**settings, **variant), where) for name, variant in VARIANTS.items()}
    flops = {name: operations(step) for name, step in steps.items()}
    seconds = interleaved(steps, rounds)
    return {
        "benchmark": "language",
        "machine": machine(),
        "settings": {**settings, "rounds": rounds, "type": "fp32"},
        "step_ms": {name: 1e3 * value for name, value in seconds.items()},
        "bp_step_over": {name: seconds["bp"] / value for name, value in seconds.items()},
        "bp_flops_over": {name: flops["bp"] / value for name, value in flops.items()},
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Time of a Transformer's training step under each learning rule.")
    for name, default in (("layers", 4), ("heads", 4), ("width", 128), ("feed_forward", 512), ("vocabulary", 4000)):
        parser.add_argument(f"--{name}", type=int, default=default, help="[%(default)s]")
    parser.add_argument("--chunk", type=int, default=128, help="tokens of a text [%(default)s]")
    parser.add_argument("--batch", type=int, default=8, help="texts of a step [%(default)s]")
    parser.add_argument("--rounds", type=int, default=15, help="times that every variant is measured [%(default)s]")
    parser.add_argument("--threads", type=int, help="of torch [all cores]")
    parser.add_argument("--device", choices=("cpu", "cuda", "auto"), default="cpu")
    args = parser.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    settings = {key: value for key, value in vars(args).items() if key not in ("rounds", "threads", "device")}
    return print_result("language", lambda: run({**settings, "dropout": 0.0}, args.rounds, args.device))


if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(main())
