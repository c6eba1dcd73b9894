"""Time and memory of a training step under each learning rule.

    python -m nerf_dfa.benchmarks.learning_rules [--layers 8] [--width 256] [--rows 32768] [--chunk 8192] [--rounds 9]

A stack of equal layers with ReLU and 4 outputs; a step is forward, loss and backward over all rows, `chunk` at a time,
without the optimiser. All variants take turns in one process. `matmul` is the same arithmetic as the forward pass as
bare products: the machine's own rate for these shapes. Ratios: bp's step over the variant's; above 1 is faster.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nerf_dfa.benchmarks.measure import interleaved, operations, peak_memory
from nerf_dfa.learning import make_rule
from nerf_dfa.learning.projection import PROJECTIONS
from nerf_dfa.learning.twopass import two_pass
from nerf_dfa.machine import machine
from nerf_dfa.training.devices import keep_freed_memory
from nerf_dfa.training.program import positive

OUTPUTS = 4


class Stack(nn.Module):
    """Equal layers with ReLU, a feedback point after each, and a linear head."""

    def __init__(self, rule: str, layers: int, width: int, **options: object) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.head = nn.Linear(width, OUTPUTS)
        self.rule = make_rule(rule, OUTPUTS, [width] * layers, **options).prepare(self)

    def forward(self, x: Tensor) -> Tensor:
        tape = self.rule.tape()
        for layer in self.layers:
            x = tape.relu_(layer(x))
        return tape.output(self.head(x))

    def checkpointed(self, x: Tensor) -> Tensor:
        """Backpropagation that keeps the input of every sqrt(layers)-th layer and computes the rest again."""
        size = max(1, round(len(self.layers) ** 0.5))

        def segment(x: Tensor, start: int) -> Tensor:
            for layer in self.layers[start : start + size]:
                x = torch.relu(layer(x))
            return x

        for start in range(0, len(self.layers), size):
            x = checkpoint(segment, x, start, use_reentrant=False)
        return self.head(x)


def squared_error(y: Tensor, target: Tensor) -> Tensor:
    return (y - target).square().mean()


def variants(layers: int, width: int, x: Tensor, target: Tensor, chunk: int) -> dict[str, Callable[[], None]]:
    """A training step for each rule, and for the memory-light ways of bp and dfa."""
    chunks = list(zip(x.split(chunk), target.split(chunk), strict=True))

    def stepper(net: Stack, learn: Callable[[Stack, Tensor, Tensor], object]) -> Callable[[], None]:
        def step() -> None:
            net.zero_grad(set_to_none=False)  # gradients keep their memory, so that a step's is its activations'
            for a, b in chunks:
                learn(net, a, b)

        return step

    def one_pass(net: Stack, a: Tensor, b: Tensor) -> None:
        squared_error(net(a), b).backward()

    def checkpointed(net: Stack, a: Tensor, b: Tensor) -> None:
        squared_error(net.checkpointed(a), b).backward()

    def twice(net: Stack, a: Tensor, b: Tensor) -> None:
        two_pass(net.rule, lambda: net(a), lambda y: squared_error(y, b))

    made = {rule: stepper(Stack(rule, layers, width), one_pass) for rule in ("bp", "dfa", "shallow", "dkp", "fa")}
    for kind in PROJECTIONS:
        if kind != "uniform":
            made[f"dfa, {kind}"] = stepper(Stack("dfa", layers, width, feedback=kind), one_pass)
    made["dfa, independent"] = stepper(Stack("dfa", layers, width, shared=False), one_pass)
    made["dfa, two passes"] = stepper(Stack("dfa", layers, width), twice)
    made["bp, checkpointed"] = stepper(Stack("bp", layers, width), checkpointed)
    # A step all of whose chunks probe, and one that does not: the mean of five steps follows from the two.
    probing, resting = (Stack("fdfa", layers, width, every=every) for every in (1, 10**9))
    resting.rule.feedback.passes = 1
    made["fdfa, a probing step"] = stepper(probing, one_pass)
    made["fdfa, another step"] = stepper(resting, one_pass)
    return made


def run(layers: int, width: int, rows: int, chunk: int, rounds: int) -> dict:
    """All measurements as one JSON-ready object; times in ms, memory in MB."""
    torch.manual_seed(0)
    x, target = torch.randn(rows, width), torch.randn(rows, OUTPUTS)
    steps = variants(layers, width, x, target, chunk)
    flops = {name: operations(steps[name]) for name in ("bp", "dfa")}
    stack, weight = Stack("bp", layers, width), torch.randn(width, width)

    @torch.no_grad()
    def forward() -> None:
        for part in x.split(chunk):
            stack(part)

    @torch.no_grad()
    def matmul() -> None:
        for part in x.split(chunk):
            for _ in range(layers):
                part @ weight

    seconds = interleaved({"matmul": matmul, "forward": forward, **steps}, rounds)
    probing, another = seconds["fdfa, a probing step"], seconds["fdfa, another step"]
    seconds["fdfa, every 5th step"] = (probing + 4 * another) / 5
    seconds["fdfa, every 5th step, one chunk"] = another + (probing - another) * min(chunk / rows, 1) / 5
    memory = {name: peak_memory(step) for name, step in steps.items()}
    product = 2 * rows * width * width * layers
    return {
        "benchmark": "learning_rules",
        "machine": machine(),
        "settings": {"layers": layers, "width": width, "rows": rows, "chunk": chunk, "rounds": rounds, "type": "fp32"},
        "matmul_gflops": product / seconds["matmul"] / 1e9,
        "forward_share_of_matmul_rate": seconds["matmul"] / seconds["forward"],
        "flops_dfa_over_bp": flops["dfa"] / flops["bp"],
        "step_ms": {name: 1e3 * value for name, value in seconds.items()},
        "bp_step_over": {name: seconds["bp"] / seconds[name] for name in seconds if name not in ("matmul", "forward")},
        "checkpointed_over_two_passes": seconds["bp, checkpointed"] / seconds["dfa, two passes"],
        "peak_memory_mb": {name: value / 1e6 for name, value in memory.items()},
        "memory_over_bp": {name: value / memory["bp"] for name, value in memory.items()},
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Time and memory of a training step under each learning rule.")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--rows", type=int, default=32768, help="rows of a step")
    parser.add_argument("--chunk", type=positive, default=8192, help="rows that go through the network at once")
    parser.add_argument("--rounds", type=positive, default=9, help="times that every variant is measured")
    parser.add_argument("--threads", type=int, default=None, help="threads of torch [all cores]")
    args = parser.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    json.dump(run(args.layers, args.width, args.rows, args.chunk, args.rounds), sys.stdout, indent=2)
    print()
    return 0


if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(main())
