"""What a training step's time goes to: encoding, network, compositing, optimiser, occupancy, and the rest.

A stopwatch counts under one name at a time. Forward, the functions of each part are wrapped, and an inner one's time
is not its caller's. Backward, autograd runs the nodes one after the other, and the time of each belongs to the part
whose function made it: autograd numbers nodes as they are made, and the stopwatch keeps from which number on what ran.
On a GPU every change waits for it, so that the shares are right and their sum is more than a step takes.
"""

from __future__ import annotations

import bisect
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial, wraps
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.autograd.graph import Node

from nerf_dfa.benchmarks.measure import synchronise
from nerf_dfa.fields import grid, mlp
from nerf_dfa.fields.grids import FeatureGrids
from nerf_dfa.nerf import task
from nerf_dfa.rendering import OccupancyGrid
from nerf_dfa.training import Trainer

# Part, and the functions that it consists of; what these call belongs to it where it is no part of its own.
PARTS: dict[str, list[tuple[Any, str]]] = {
    "encoding": [(mlp, "positional_encoding"), (grid, "positional_encoding"), (FeatureGrids, "forward")],
    "network": [(field, name) for field in (mlp.MLPField, grid.GridField) for name in ("raw", "raw_density")],
    "sampling and compositing": [(task, "render_rays")],
    "occupancy": [(OccupancyGrid, "update")],
}
# Looking at the density asks the field, but is no part of what a ray costs: all of it is the occupancy's.
CLOSED = {"occupancy"}
REST, OPTIMISER = "rest", "optimiser"


class Stopwatch:
    """Seconds under several names; one runs at a time."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.running = REST
        self._since = time.perf_counter()
        self._numbers: list[int] = [0]  # of autograd's next node when the running name changed, and that name
        self._names: list[str] = [REST]

    def switch(self, name: str) -> None:
        """From now on time counts under this name."""
        synchronise()
        now = time.perf_counter()
        self.seconds[self.running] += now - self._since
        self.running, self._since = name, now

    def during(self, name: str, function: Callable) -> Callable:
        """The function, with its time counted under the name."""

        @wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            before = self.running
            if before in CLOSED:
                return function(*args, **kwargs)
            self._enter(name)
            try:
                return function(*args, **kwargs)
            finally:
                self._enter(before)

        return timed

    def _enter(self, name: str) -> None:
        self._numbers.append(torch._C._autograd._get_sequence_nr())
        self._names.append(name)
        self.switch(name)

    def maker(self, node: Node) -> str:
        """Under which name the node was made."""
        return self._names[bisect.bisect_right(self._numbers, node._sequence_nr()) - 1]

    def follow_backward(self, output: Tensor) -> None:
        """Makes the backward pass from the output count under the names of those that made its nodes.

        Sums of gradients in parameters, which have no number, count with the node that they follow.
        """
        for node in nodes(output):
            if "AccumulateGrad" not in node.name():
                node.register_prehook(partial(self._begin, self.maker(node)))

    def _begin(self, name: str, _: tuple[Tensor | None, ...]) -> None:
        self.switch(name)


def nodes(output: Tensor) -> list[Node]:
    """All nodes of the graph that made the output."""
    found, left = {output.grad_fn}, [output.grad_fn]
    while left:
        for node, _ in left.pop().next_functions:
            if node is not None and node not in found:
                found.add(node)
                left.append(node)
    return list(found)


@contextmanager
def watched(trainer: Trainer) -> Iterator[Stopwatch]:
    """Within it, the trainer's steps are timed part by part."""
    stopwatch = Stopwatch()
    plain_backward = torch.autograd.backward

    def backward(outputs: Tensor, *args: Any, **options: Any) -> None:
        """Of the loss, and inside it of a second pass of the samples that err."""
        stopwatch.follow_backward(outputs)
        plain_backward(outputs, *args, **options)

    plain_update = stopwatch.during(OPTIMISER, trainer.optimizer.step)

    def update(*args: Any) -> Any:
        stopwatch.switch(REST)  # backward has ended
        return plain_update(*args)

    with ExitStack() as stack:
        for name, functions in PARTS.items():
            for owner, attribute in functions:
                stack.enter_context(patch.object(owner, attribute, stopwatch.during(name, getattr(owner, attribute))))
        stack.enter_context(patch.object(torch.autograd, "backward", backward))
        stack.enter_context(torch.autograd.set_multithreading_enabled(False))  # nodes have one row of numbers
        stack.enter_context(patch.object(trainer.optimizer, "step", update))
        yield stopwatch
        stopwatch.switch(REST)


def time_shares(trainer: Trainer, steps: int) -> dict[str, float]:
    """Share of each part in the time of so many further steps."""
    with watched(trainer) as stopwatch:
        for _ in range(steps):
            trainer.step()
    total = sum(stopwatch.seconds.values())
    names = [*PARTS, OPTIMISER, REST]
    return {name: stopwatch.seconds[name] / total for name in names}
