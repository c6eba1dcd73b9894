"""Which device a run uses, and how its memory is managed."""

from __future__ import annotations

import ctypes
import platform

import torch

from nerf_dfa.errors import UserError


def choose_device(name: str) -> torch.device:
    """`auto` takes the GPU where there is one; `cuda` without one is a UserError."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: this torch sees no CUDA GPU; use --device cpu, or auto")
    return torch.device(name)


def keep_freed_memory() -> bool:
    """Makes this process keep the memory that tensors on the CPU leave; for programs, which exit when they are done.

    By default glibc's malloc maps large tensors anew each time and gives the top of its heap back to the system, and
    every step pays for having the pages zeroed again: a fifth of a training step's time. False, with nothing changed,
    where the C library is another one.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    trim_threshold, mmap_max = -1, -4  # names and numbers of malloc.h
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(trim_threshold, 2**31 - 1) and mallopt(mmap_max, 0))
