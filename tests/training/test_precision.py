"""Choosing a precision by measurement."""

import time

import pytest
import torch

from nerf_dfa.training.precision import faster_precision


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
