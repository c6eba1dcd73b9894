"""What can go wrong in training: a field that collapses, and one that loses in the end what it had learned.

Collapse: pictures have one colour everywhere, and the gradient is as good as zero; or the loss is no number. With a
density of ReLU it happens when every raw density falls below zero in the first steps: nothing is left that an error
could raise. A collapsed field never recovers, so that the run has to begin anew from other weights.

Fall: at a learning rate that is too high a field may learn for thousands of steps, and then lose decibels for good.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field

from nerf_dfa.training import Progress, Trainer

# A picture is uniform where the contrast of a batch's pixels is below this share of the photographs', and the field has
# collapsed where this is so at two checks running. Empty fields have some 1e-6. Opaque ones that learn slowly, as with
# the DFA paper's rate, have a hundredth for some hundred steps, and then learn.
UNIFORM = 1e-3
CHECK_EVERY, CHECK_FIRST = 50, 100  # steps
# Until this step a collapse is one of the start, from which another initialisation may save the run.
EARLY = 1000
# With ReLU and random output biases each of two networks is empty from the first step at two in five initialisations.
RESTARTS = 9
SEED_STRIDE = 1_000_003  # between the seeds of one attempt and the next
# A field has fallen where the median PSNR of the last so many batches that were looked at is so far below the best.
MEDIAN_OF, FALLEN = 10, 4.0  # batches, dB


class Collapsed(Exception):
    """The field has collapsed; `step` is where this was found."""

    def __init__(self, step: int, seen: str = "all pixels have one colour") -> None:
        super().__init__(f"collapsed: at step {step} {seen}")
        self.step = step


@dataclass
class Course:
    """How well the training rays are met over a run: the PSNR of its last batches, in dB, and the best it has been.

    uniform: at how many checks running, the last one among them, the pictures had one colour.
    """

    last: list[float] = field(default_factory=list)
    best: float = -math.inf
    best_step: int = 0
    uniform: int = 0

    def add(self, psnr: float, step: int) -> None:
        self.last = [*self.last, psnr][-MEDIAN_OF:]
        if len(self.last) == MEDIAN_OF and (now := statistics.median(self.last)) > self.best:
            self.best, self.best_step = now, step

    @property
    def collapsed(self) -> bool:
        """Whether the pictures have had one colour at two checks running."""
        return self.uniform >= 2

    def fall(self) -> float:
        """How far the last batches are below the best, in dB; 0 where that is no more than batches differ."""
        lost = self.best - statistics.median(self.last) if math.isfinite(self.best) else 0.0
        return lost if lost > FALLEN else 0.0


def watch(trainer: Trainer, until: int | None = None) -> Course:
    """Lets the trainer's run raise Collapsed; returns its course, which grows while it runs.

    until: the last step at which uniform pictures are a collapse; a loss that is no number always is. What a step shows
    is read at a few steps only: a GPU has to wait.
    """
    course = Course()

    def check_loss(progress: Progress) -> None:
        if not math.isfinite(float(progress.scalars["loss"])):
            raise Collapsed(progress.step, "the loss is no finite number")

    def check(progress: Progress) -> None:
        check_loss(progress)
        course.add(float(progress.scalars["psnr"]), progress.step)
        if progress.step < CHECK_FIRST:
            return
        # A batch of photographs of one colour makes the contrast infinite or no number, which proves nothing.
        course.uniform = course.uniform + 1 if float(progress.scalars["contrast"]) < UNIFORM else 0
        if course.collapsed and (until is None or progress.step <= until):
            raise Collapsed(progress.step)

    trainer.every(CHECK_EVERY, check)
    trainer.every(1, lambda progress: check_loss(progress) if progress.last else None)
    return course


def seed_of(seed: int, attempt: int) -> int:
    """The seed of weights and rays of the attempt (0: the first)."""
    return seed + attempt * SEED_STRIDE
