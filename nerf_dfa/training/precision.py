"""Which precision matrix products run in, chosen by measurement."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Literal

import torch

Precision = Literal["fp32", "bf16"]

# bf16 has to be so many times as fast. A grid field, where it measures as 1.02 to 1.2 times and whole steps gain
# nothing, would else be now in this and now in that.
GAIN = 1.4
# Rounds at first that do not count, at least so many more, and seconds that shall be measured.
UNCOUNTED, ROUNDS, ENOUGH = 2, 9, 0.5


def faster_precision(work: Callable[[], object], device: torch.device) -> Precision:
    """ "bf16" where `work` under autocast is clearly faster than in fp32, on this very machine; else "fp32".

    Some CPUs multiply in bfloat16 (AVX512-BF16, AMX) and some only imitate it; small layers gain nothing anywhere.
    work: what is repeated, such as a forward and a backward pass. The two take turns, and the median of the rounds'
    ratios counts: other programs that come and go change both times of a round, or few rounds.
    """

    def seconds(enabled: bool) -> float:
        start = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=enabled):
            work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    ratios, began = [], time.perf_counter()
    while len(ratios) < UNCOUNTED + ROUNDS or time.perf_counter() - began < ENOUGH:
        ratios.append(seconds(False) / seconds(True))
    return "bf16" if statistics.median(ratios[UNCOUNTED:]) > GAIN else "fp32"
