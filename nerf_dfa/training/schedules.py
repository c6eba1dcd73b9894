"""Learning rates as functions of the number of finished steps."""

from __future__ import annotations

from collections.abc import Callable

Schedule = Callable[[int], float]


def exponential(rate: float, decay_steps: int | float, factor: float = 0.1) -> Schedule:
    """rate * factor^(step / decay_steps): NeRF's schedule. decay_steps 0 keeps the rate constant."""
    if decay_steps == 0:
        return lambda step: rate
    return lambda step: rate * factor ** (step / decay_steps)


def rising(schedule: Schedule, steps: int) -> Schedule:
    """The schedule times (step + 1) / steps in the first steps: Adam's first ones are as large as the rate allows."""
    return lambda step: schedule(step) * min(1.0, (step + 1) / max(1, steps))
