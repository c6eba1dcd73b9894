"""Feedback matrices that are estimated anew in some of the forward passes: what fdfa and mdfa have in common."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nerf_dfa.learning.feedback import Feedback, check_width, of_layer


class EstimatedFeedback(Feedback):
    """A matrix for every layer, starting as DFA's uniform one: signal_i = message @ B_i. c * sum(l_i) numbers.

    The message is the error e, or as wide as `message_width` says.

    every: forward passes from one estimate to the next, at least; growth: more of them as training goes on, this share
    of the passes so far. first: passes at the start that all make one, because there the gradients change fastest.
    average: the weight of a new estimate, at most; that of the first ones may be as large as their number says (1, 1/2,
    1/3, ...). The random start is forgotten at the first.
    """

    def __init__(
        self,
        error_width: int,
        widths: Sequence[int],
        every: int = 1,
        average: float = 0.05,
        first: int = 0,
        growth: float = 0.0,
        message_width: int | None = None,
    ) -> None:
        super().__init__(error_width, message_width)
        if every < 1 or first < 0 or growth < 0 or not 0 < average <= 1:
            raise ValueError(
                f"every = {every} has to be at least 1, first = {first} and growth = {growth} at least 0, "
                f"average = {average} in (0, 1]"
            )
        self.every, self.average, self.first, self.growth = every, average, first, growth
        for layer, width in enumerate(widths):
            self.register_buffer(f"matrix_{layer}", (torch.rand(self.message_width, width) * 2 - 1) * width**-0.5)
        self.layers = len(widths)
        self.passes = self.estimates = self.due = 0  # due: the pass from which on the next estimate is made

    @property
    def matrices(self) -> list[Tensor]:
        return [getattr(self, f"matrix_{layer}") for layer in range(self.layers)]

    @property
    def widest(self) -> int:
        return max(matrix.shape[1] for matrix in self.matrices)

    def project(self, message: Tensor, layer: int, width: int) -> Tensor:
        matrix = of_layer(self.matrices, layer)
        check_width(layer, width, matrix.shape[1])
        return message @ matrix.to(message.dtype)

    def next_estimates(self) -> bool:
        """Counts a forward pass; True if it is one that makes an estimate."""
        self.passes += 1
        if self.passes > self.first and self.passes < self.due:
            return False
        self.due = self.passes + max(self.every, int(self.growth * self.passes))
        return True

    def largest_step(self) -> float:
        """Counts an estimate; the most that it may weigh."""
        self.estimates += 1
        return max(self.average, 1 / self.estimates)

    def get_extra_state(self) -> Tensor:
        return torch.tensor([self.passes, self.estimates, self.due])

    def set_extra_state(self, state: Tensor) -> None:
        self.passes, self.estimates, self.due = state.tolist()
