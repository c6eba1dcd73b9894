"""Memory that a program keeps is not mapped anew: counted in page faults, in a process of its own."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, torch
from nerf_dfa.training.devices import keep_freed_memory
assert {keep} is None or keep_freed_memory() is True
torch.set_num_threads(1)
for _ in range(5):
    torch.zeros(16_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.zeros(16_000_000)  # 64 MB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(keep: bool | None) -> int:
    command = [sys.executable, "-c", PROGRAM.format(keep=keep)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc can be told")
def test_kept_memory_is_not_faulted_in_again():
    assert faults(keep=True) < 0.3 * faults(keep=None)
