"""What the benchmarks share: interleaved timing, peak memory, and a description of the machine."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

from nerf_dfa.evaluation.report import git_commit


def machine() -> dict[str, str | int | None]:
    """What the numbers were measured on."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), model)
    except OSError:
        pass
    return {
        "cpu": model,
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "commit": git_commit(),
    }


def interleaved(functions: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Least seconds of each function over the rounds, after one that does not count.

    The functions take turns, so that whatever else the machine does falls on all of them; the least time is the one
    that the rest of the machine disturbed least.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(rounds + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if number:
                times[name].append(time.perf_counter() - start)
    return {name: min(values) for name, values in times.items()}


def peak_memory(function: Callable[[], object]) -> int:
    """Most bytes that the function holds on the CPU at a time beyond what was there before it, by torch's profiler."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most
