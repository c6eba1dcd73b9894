"""Which precision matrix products run in, chosen by measurement."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

import torch

Precision = Literal["fp32", "bf16"]

# bf16 has to be so many times as fast. A grid field, where it measures as 1.02 to 1.2 times and whole steps gain
# nothing, would else be now in this and now in that.
GAIN = 1.4
# Rounds at least, and seconds that shall be measured: what takes a moment is repeated more often.
ROUNDS, ENOUGH = 4, 0.3


def faster_precision(work: Callable[[], object], device: torch.device) -> Precision:
    """ "bf16" where `work` under autocast is clearly faster than in fp32, on this very machine; else "fp32".

    Some CPUs multiply in bfloat16 (AVX512-BF16, AMX) and some only imitate it; small layers gain nothing anywhere.
    work: what is repeated, such as a forward and a backward pass. The two take turns, and the least time counts.
    """
    best = {"fp32": float("inf"), "bf16": float("inf")}
    rounds, began = -1, time.perf_counter()  # the slow first ones are never the least
    while rounds < ROUNDS or time.perf_counter() - began < ENOUGH:
        rounds += 1
        for name in best:
            start = time.perf_counter()
            with torch.autocast(device.type, torch.bfloat16, enabled=name == "bf16"):
                work()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            best[name] = min(best[name], time.perf_counter() - start)
    return "bf16" if best["fp32"] > GAIN * best["bf16"] else "fp32"
