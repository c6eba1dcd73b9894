"""Many independent calls, some at a time, in processes that are kept for them.

A routine is a generator that yields calls, (function, *arguments), and is sent what each returned:

    def one(seed):
        run = yield train, settings, seed
        keep(run)

    drive([one(seed) for seed in range(10)], jobs=2)
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from typing import Any

import torch

from nerf_dfa.errors import UserError
from nerf_dfa.training.devices import keep_freed_memory

Routine = Generator[tuple[Any, ...], Any, None]
Submit = Callable[..., Future]


def drive(routines: Sequence[Routine], jobs: int = 1) -> None:
    """Runs the routines, begun in their order, `jobs` calls at a time, each of one thread; one job: in this process.

    The routines themselves run in this thread, a step whenever a call of theirs has ended. What a call raises is raised
    here: no other begins then, and those that have begun still end and reach their routines. Ctrl-C ends all at once.
    Raises UserError if a process was killed.
    """
    waiting, running = list(reversed(routines)), {}

    def advance(routine: Routine, value: Any = None) -> None:
        try:
            call = routine.send(value)
        except StopIteration:
            return
        running[submit(*call)] = routine

    with _processes(jobs) as submit:
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    advance(waiting.pop())
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    advance(running.pop(future), future.result())
        except BrokenProcessPool:
            raise UserError(
                "one of the processes was killed (out of memory?); with fewer --jobs the same command goes on"
            ) from None
        except Exception as error:
            if running:
                print(f"{error}\nWaiting for what has begun ({len(running)})", file=sys.stderr, flush=True)
            for future, routine in running.items():
                with suppress(Exception):
                    routine.send(future.result())
            raise


@contextmanager
def _processes(jobs: int) -> Iterator[Submit]:
    """What starts a call: at once in this process for one job, else in one of so many others."""
    if jobs <= 1:
        yield _here
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_start_worker) as pool:

        def submit(function: Callable[..., Any], *arguments: Any) -> Future:
            before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # which they inherit: only calls heed Ctrl-C
            try:
                return pool.submit(_heeding, function, *arguments)
            finally:
                signal.signal(signal.SIGINT, before)

        try:
            yield submit
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _here(function: Callable[..., Any], *arguments: Any) -> Future:
    future: Future = Future()
    future.set_result(function(*arguments))
    return future


def _heeding(function: Callable[..., Any], *arguments: Any) -> Any:
    """The call, in a worker, which Ctrl-C interrupts; between calls it does nothing."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return function(*arguments)
    finally:
        signal.signal(signal.SIGINT, before)


def _start_worker() -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for its next call for ever."""
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)
