"""Space for rows whose number only the device knows, so that the host need not wait to be told.

    rows = order[: room.rows(len(order))]      # on the host: at once
    room.note(count, total)                    # on the device: how many there should have been, and of how many
    room.settle()                              # once in many steps: the one time that the host waits

A host that asks a GPU how many rows are left stands still until all that it has been given to do is done, and then the
GPU does until the next work comes. So the space is that of the steps before and a little more.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Int64
from torch import Tensor

MARGIN = 1.25  # over the largest share that was noted
MULTIPLE = 256  # sizes that kernels and the allocator's cache like


class Room:
    """Space for a share of rows: for all of them until the first `settle`.

    share: of the rows that wanted space lately.
    """

    def __init__(self) -> None:
        self.share = 1.0
        self._noted: Tensor | None = None

    def rows(self, total: int) -> int:
        """How many of `total` rows there is space for; at least one where there are any."""
        return min(total, MULTIPLE * math.ceil(min(1.0, MARGIN * self.share) * total / MULTIPLE))

    def note(self, count: Int64[Tensor, ""], total: Int64[Tensor, ""] | int) -> None:
        """That `count` of `total` rows wanted space."""
        share = count.detach() / (total.clamp(min=1) if isinstance(total, Tensor) else max(1, total))
        self._noted = share if self._noted is None else torch.maximum(self._noted, share)

    def settle(self) -> None:
        """Makes space for the largest share noted since the last time, and a MARGIN."""
        if self._noted is not None:
            self.share = min(1.0, max(float(self._noted), 1e-6))
            self._noted = None
