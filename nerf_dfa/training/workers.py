"""Many independent calls, some at a time, each in a process of its own.

A routine is a generator that yields calls, (function, *arguments), and is sent what each returned:

    def one(seed):
        run = yield train, settings, seed
        keep(run)

    drive([one(seed) for seed in range(10)], jobs=2)
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

import torch

from nerf_dfa.training.devices import keep_freed_memory

Routine = Generator[tuple[Any, ...], Any, None]
Submit = Callable[..., Future]


def drive(routines: Sequence[Routine], jobs: int = 1) -> None:
    """Runs the routines, begun in their order, `jobs` calls at a time; one job: in this process.

    The routines themselves run in this thread, a step whenever a call of theirs has ended. What a call raises is raised
    here, and ends all.
    """
    waiting, running = list(reversed(routines)), {}

    def advance(routine: Routine, value: Any = None) -> None:
        try:
            call = routine.send(value)
        except StopIteration:
            return
        running[submit(*call)] = routine

    with _processes(min(jobs, len(routines))) as submit:
        while waiting or running:
            while waiting and len(running) < jobs:
                advance(waiting.pop())
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                advance(running.pop(future), future.result())


@contextmanager
def _processes(jobs: int) -> Iterator[Submit]:
    """What starts a call: at once in this process for one job, else in one of so many others."""
    if jobs <= 1:
        yield _here
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_start_worker) as pool:

        def submit(function: Callable[..., Any], *arguments: Any) -> Future:
            before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # which they inherit: only trainers heed Ctrl-C
            try:
                return pool.submit(function, *arguments)
            finally:
                signal.signal(signal.SIGINT, before)

        try:
            yield submit
        finally:
            pool.shutdown(cancel_futures=True)


def _here(function: Callable[..., Any], *arguments: Any) -> Future:
    future: Future = Future()
    future.set_result(function(*arguments))
    return future


def _start_worker() -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
