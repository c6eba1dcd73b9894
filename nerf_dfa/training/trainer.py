"""The trainer that all tasks share: steps, schedule, precision, logs, checkpoints, interruption."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nerf_dfa.training.checkpoints import (
    checkpoint_path,
    entry,
    load_checkpoint,
    load_optimizer,
    load_weights,
    save_checkpoint,
    step_of,
)
from nerf_dfa.training.precision import Precision
from nerf_dfa.training.schedules import Schedule
from nerf_dfa.training.task import Task


@dataclass(frozen=True)
class ModelCodec:
    """How a model's weights stand in a checkpoint: entries of its own, beside the trainer's.

    load(entries, path) raises UserError where they do not fit the model.
    """

    entries: Callable[[], dict[str, Any]]
    load: Callable[[dict[str, Any], Path], None]


def plain_codec(model: nn.Module) -> ModelCodec:
    """One entry, `model_state_dict`."""
    return ModelCodec(
        lambda: {"model_state_dict": model.state_dict()},
        lambda contents, path: load_weights(model, entry(contents, "model_state_dict", path), str(path)),
    )


@dataclass
class Progress:
    """What happened in a step, for whoever shows or logs it: step, seconds of training so far, scalars.

    last: whether it was the last step of the run.
    """

    step: int
    seconds: float
    scalars: dict[str, torch.Tensor]
    last: bool = False

    def numbers(self) -> dict[str, float]:
        return {name: float(value) for name, value in self.scalars.items()}


@dataclass
class Trainer:
    """Trains a model on a task, one `step()` after the other.

    A group of the optimiser's parameters may have a `rate_scale`, which its learning rate is multiplied with, and a
    `start`, the number of finished steps before which its rate is 0.

    Everything that the next step depends on is in `state()`, so that a run continued from a checkpoint equals an
    unbroken one: weights, optimiser, random generators, step. (On a GPU not bit for bit: the space that is known to be
    enough for its samples is learned anew.)
    """

    model: nn.Module
    task: Task
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    generator: torch.Generator
    precision: Precision = "fp32"
    codec: ModelCodec | None = None
    finished: int = 0  # steps done
    seconds: float = 0.0  # time spent in them, over all parts of the run
    restarts: int = 0  # how often training had to begin anew before this model
    hooks: list[tuple[int, Callable[[Progress], None]]] = field(default_factory=list)
    actions: list[tuple[int, Callable[[], None]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.codec is None:
            self.codec = plain_codec(self.model)

    def every(self, steps: int, hook: Callable[[Progress], None]) -> None:
        """Calls the hook after every so many steps; never if 0."""
        if steps > 0:
            self.hooks.append((steps, hook))

    def within(self, steps: int, action: Callable[[], None]) -> None:
        """Makes the action a part of every so many steps, so that its time counts as training."""
        self.actions.append((steps, action))

    def step(self) -> Progress:
        """One update of the weights."""
        device = self.generator.device
        self.model.train()
        for group in self.optimizer.param_groups:
            waits = self.finished < group.get("start", 0)
            group["lr"] = 0.0 if waits else self.schedule(self.finished) * group.get("rate_scale", 1.0)
        batch = self.task.batch(self.finished + 1, self.generator)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            loss, scalars = self.task.loss(self.model, batch, self.generator)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.finished += 1
        for interval, action in self.actions:
            if self.finished % interval == 0:
                action()
        return Progress(self.finished, self.seconds, {"loss": loss.detach(), **scalars})

    def run(self, steps: int) -> bool:
        """Steps until `steps` are finished; False if Ctrl-C or a termination signal ended it before.

        The signal is honoured between two steps, so that the state is whole; a second one ends at once.
        """
        with _interruptible() as interrupted:
            while self.finished < steps:
                start = time.perf_counter()
                progress = self.step()
                self.seconds += time.perf_counter() - start
                due = [(interval, hook) for interval, hook in self.hooks if progress.step % interval == 0]
                if self.finished == steps or any(interval > 1 for interval, _ in due):
                    self.wait()
                progress.seconds, progress.last = self.seconds, self.finished == steps
                for _, hook in due:
                    hook(progress)
                if interrupted():
                    return False
        return True

    def wait(self) -> None:
        """Until the device has done the steps, which it does on its own time, so that `seconds` has all of theirs.

        For hooks of every step before they read a scalar; before all others the trainer does it.
        """
        if self.generator.device.type == "cuda":
            start = time.perf_counter()
            torch.cuda.synchronize(self.generator.device)
            self.seconds += time.perf_counter() - start

    def state(self) -> dict[str, Any]:
        """All that the next step depends on."""
        state = {
            "global_step": self.finished,
            "seconds": self.seconds,
            "restarts": self.restarts,
            **self.codec.entries(),
            "optimizer_state_dict": self.optimizer.state_dict(),
            "generator_device": self.generator.device.type,
            "generator_state": self.generator.get_state(),
            "torch_rng_state": torch.get_rng_state(),
        }
        if torch.cuda.is_available():
            state["cuda_rng_states"] = torch.cuda.get_rng_state_all()
        return state

    def save(self, folder: Path) -> Path:
        """Writes `{step:06d}.tar` into the folder."""
        path = checkpoint_path(folder, self.finished)
        save_checkpoint(path, self.state())
        return path

    def load(self, path: Path, of_any_rule: bool = False) -> bool:
        """Continues where the checkpoint was; whether the optimiser does, too.

        One without random states, or from another kind of device, keeps the present random states. of_any_rule: the
        optimiser begins anew where it has other parameters, those of another learning rule.

        Raises:
            UserError: the file is damaged, or of another model or optimiser; nothing can go on from here then.
        """
        contents = load_checkpoint(path)
        self.codec.load(contents, path)
        state = entry(contents, "optimizer_state_dict", path)
        goes_on = load_optimizer(self.optimizer, state, str(path), of_any_rule)
        self.finished = step_of(contents, path)
        self.seconds = float(contents.get("seconds", 0.0))
        self.restarts = int(contents.get("restarts", 0))
        if contents.get("generator_device") == self.generator.device.type:
            self.generator.set_state(contents["generator_state"])
            torch.set_rng_state(contents["torch_rng_state"])
            if torch.cuda.is_available() and "cuda_rng_states" in contents:
                # Another machine may have more GPUs, or fewer.
                for number, state in enumerate(contents["cuda_rng_states"][: torch.cuda.device_count()]):
                    torch.cuda.set_rng_state(state, number)
        return goes_on


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Turns the first SIGINT or SIGTERM into a flag; the second acts as usual."""
    caught = False
    previous = {}

    def catch(number: int, frame: object) -> None:
        nonlocal caught
        caught = True
        for key, handler in previous.items():
            signal.signal(key, handler)

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, catch)
    except ValueError:  # not in the main thread: signals go elsewhere
        pass
    try:
        yield lambda: caught
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
