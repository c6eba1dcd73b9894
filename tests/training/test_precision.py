"""Choosing a precision by measurement."""

import itertools
import time

import pytest
import torch

from nerf_dfa.training.precision import UNCOUNTED, faster_precision


def slow_in(name):
    """Work that takes much longer in one precision."""

    def work():
        bf16 = torch.is_autocast_enabled("cpu")
        time.sleep(0.004 if (name == "bf16") == bf16 else 0.001)

    return work


@pytest.mark.parametrize(("slow", "expected"), [("fp32", "bf16"), ("bf16", "fp32"), ("neither", "fp32")])
def test_bf16_is_taken_only_where_it_is_clearly_faster(slow, expected):
    work = slow_in(slow) if slow != "neither" else lambda: time.sleep(0.002)
    assert faster_precision(work, torch.device("cpu")) == expected
    assert not torch.is_autocast_enabled("cpu")


def test_what_comes_and_goes_beside_it_does_not_count(monkeypatch):
    """Both take 3 ms, but for one lucky round of bf16: its least time is a third of that of fp32."""
    clock, calls = [0.0], itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def work():
        lucky = next(calls) == 2 * UNCOUNTED + 1
        assert not lucky or torch.is_autocast_enabled("cpu")
        clock[0] += 0.001 if lucky else 0.003

    assert faster_precision(work, torch.device("cpu")) == "fp32"
    assert next(calls) > 2 * (UNCOUNTED + 1)
