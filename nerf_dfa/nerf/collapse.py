"""Collapse: a field whose pictures have one colour everywhere, and whose gradient is as good as zero; or no number.

With a density of ReLU it happens when every raw density falls below zero in the first steps: nothing is left that an
error could raise. A collapsed field never recovers, so that the run has to begin anew from other weights.
"""

from __future__ import annotations

import math

from nerf_dfa.training import Progress, Trainer

# A picture is uniform where the contrast of a batch's pixels is below this share of the photographs' (healthy fields
# are above a third after 50 steps), and the field has collapsed where this is so at two checks running.
UNIFORM = 0.02
CHECK_EVERY, CHECK_FIRST, CHECK_LAST = 50, 100, 1000  # steps
RESTARTS = 4
SEED_STRIDE = 1_000_003  # between the seeds of one attempt and the next


class Collapsed(Exception):
    """The field has collapsed; `step` is where this was found."""

    def __init__(self, step: int, seen: str = "all pixels have one colour") -> None:
        super().__init__(f"collapsed: at step {step} {seen}")
        self.step = step


def watch(trainer: Trainer) -> None:
    """Lets the trainer's run raise Collapsed. Loss and contrast are read at a few steps only: a GPU has to wait."""
    uniform = 0

    def check(progress: Progress) -> None:
        nonlocal uniform
        if not math.isfinite(float(progress.scalars["loss"])):
            raise Collapsed(progress.step, "the loss is no finite number")
        if not CHECK_FIRST <= progress.step <= CHECK_LAST:
            return
        # A batch of photographs of one colour makes the contrast infinite or no number, which proves nothing.
        uniform = uniform + 1 if float(progress.scalars["contrast"]) < UNIFORM else 0
        if uniform == 2:
            raise Collapsed(progress.step)

    trainer.every(CHECK_EVERY, check)


def seed_of(seed: int, attempt: int) -> int:
    """The seed of weights and rays of the attempt (0: the first)."""
    return seed + attempt * SEED_STRIDE
