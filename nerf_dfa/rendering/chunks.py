"""Rays in chunks: as many at once as memory allows, and on a CPU some chunks side by side."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor

from nerf_dfa.machine import out_of_memory
from nerf_dfa.rendering.rays import Rays

# Rays that a thread is worth beginning for.
FEW = 1024

Function = Callable[[Rays], tuple[Tensor, ...]]


class Chunks:
    """Rays rendered at once: `size`, halved whenever the device runs out of memory, and kept for the next image.

    on_halving is told the new size. On a CPU each of torch's threads has a chunk of its own: the operations on one are
    too short to be worth sharing.
    """

    def __init__(self, size: int, on_halving: Callable[[int], None] = lambda size: None) -> None:
        self.size = size
        self._on_halving = on_halving
        self._lock = threading.Lock()

    def map(self, function: Function, rays: Rays) -> tuple[Tensor, ...]:
        """The function's results for all rays (n, ...), gathered on the CPU.

        No gradients are taken. The function may be called from several threads at once, under the autocast of this one.
        """
        total, threads, device = rays.origins.shape[0], torch.get_num_threads(), rays.origins.device.type
        if device != "cpu" or total < threads * FEW:
            threads = 1
        count = -(-total // (self.size * threads)) * threads  # as many for each thread
        parts = [rays.map(lambda x, a=total * i // count, b=total * (i + 1) // count: x[a:b]) for i in range(count)]
        cast = device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)

        def results(part: Rays) -> list[tuple[Tensor, ...]]:
            with torch.no_grad(), torch.autocast(*cast):
                return self._results(function, part)

        with side_by_side(threads) as apply:
            found = [result for part in apply(results, parts) for result in part]
        return tuple(torch.cat(column) for column in zip(*found, strict=True))

    def _results(self, function: Function, rays: Rays) -> list[tuple[Tensor, ...]]:
        """The function's results for the rays, in as many parts as their memory needs."""
        total, size = rays.origins.shape[0], self.size
        if total <= size:
            try:
                return [tuple(x.cpu() for x in function(rays))]
            except RuntimeError as error:
                if not out_of_memory(error) or size == 1:
                    raise
            self._halve(size)
            if rays.origins.device.type == "cuda":
                torch.cuda.empty_cache()
            return self._results(function, rays)
        parts = (rays.map(lambda x, a=start: x[a : a + size]) for start in range(0, total, size))
        return [result for part in parts for result in self._results(function, part)]

    def _halve(self, size: int) -> None:
        """Halves the size, unless another thread has done so since it was `size`."""
        with self._lock:
            if self.size == size:
                self.size = size // 2
                self._on_halving(self.size)


@contextmanager
def side_by_side(threads: int) -> Iterator[Callable]:
    """A `map` that makes so many calls at a time, each with one thread of torch; with one thread, the usual one.

    The results keep their order. What a call raises, Ctrl-C too, is raised here once the calls under way have ended.
    """
    if threads == 1:
        yield map
        return
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool.map
    finally:
        torch.set_num_threads(threads)  # the last call holds for threads that begin later
