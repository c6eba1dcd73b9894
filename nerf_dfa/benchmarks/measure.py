"""What the benchmarks share: interleaved timing, peak memory, the machine and its rate, and how a result is printed."""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from nerf_dfa.errors import UserError

Name = TypeVar("Name", bound=Hashable)


def print_result(name: str, result: Callable[[], dict[str, Any]]) -> int:
    """Prints what `result` returns as one JSON object. The program's exit status: 0, or 2 for a user's mistake.

    name: the program's, for the one line that tells the mistake.
    """
    try:
        made = result()
    except UserError as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        return 2
    json.dump(made, sys.stdout, indent=2)
    print()
    return 0


def matrix_products(
    rows: int, width: int, count: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[Callable[[], None], int]:
    """A function that multiplies (rows, width) by (width, width) `count` times, and how many operations that takes.

    What a layer of `width` is at best: the machine's own rate for its shapes.
    """
    x, weight = (torch.randn(n, width, device=device, dtype=dtype) for n in (rows, width))

    def products() -> None:
        for _ in range(count):
            x @ weight

    return products, 2 * rows * width * width * count


def operations(function: Callable[[], object]) -> int:
    """Multiplications and additions in the function's matrix products."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def synchronise() -> None:
    """Waits for what a GPU, if there is one, has still to do."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def loglog_slope(x: Sequence[float | int], y: Sequence[float | int]) -> float:
    """Exponent p of y = c x^p, by least squares on the logarithms."""
    u, v = (torch.tensor(z, dtype=torch.float64).log() for z in (x, y))
    u, v = u - u.mean(), v - v.mean()
    return float(u @ v / (u @ u))


@contextmanager
def in_own_process(make: Callable[..., Callable[[], object]], *args: Any) -> Iterator[Callable[[], None]]:
    """Within it, a function that has `make(*args)` called in a process of its own, and waits for it.

    `make` is called once, there. The process has as many threads as this one, and is otherwise as Python starts it.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, torch.get_num_threads(), make, args), daemon=True)
    process.start()
    there.close()

    def call() -> None:
        here.send(None)
        here.recv()

    try:
        yield call
    finally:
        here.close()
        process.join()


def _serve(pipe: Connection, threads: int, make: Callable[..., Callable[[], object]], args: Sequence[Any]) -> None:
    """Calls the function whenever something comes through the pipe, until its other end is closed."""
    torch.set_num_threads(threads)
    function = make(*args)
    try:
        while True:
            pipe.recv()
            function()
            pipe.send(None)
    except (EOFError, KeyboardInterrupt):
        pass


def interleaved(functions: dict[Name, Callable[[], object]], rounds: int) -> dict[Name, float]:
    """Least seconds of each function over the rounds, after one that does not count.

    The functions take turns, so that whatever else the machine does falls on all of them; the least time is the one
    that the rest of the machine disturbed least.
    """
    times: dict[Name, list[float]] = {name: [] for name in functions}
    for number in range(rounds + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            synchronise()
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
