"""What numbers were measured on: the machine, and the commit of this program; and whether its memory was enough."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import torch

PROJECT = Path(__file__).resolve().parents[1]
CHANGES = ("status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)docs")


def machine() -> dict[str, str | int | None]:
    """What the numbers were measured on; of the CPU also what torch uses of it, as models may differ by no name."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), model)
    except OSError:
        pass
    return {
        "cpu": f"{model}, {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "commit": git_commit(),
    }


def out_of_memory(error: Exception) -> bool:
    """Whether a device, or the host, had less memory than was asked of it."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


def git_commit() -> str | None:
    """Short hash of the checkout that this program runs from, with "+dirty" if tracked files were changed.

    Those of docs/ do not count: what a study writes there is no other program for its next run. None outside a
    checkout of the project (an installed package, for one), before its first commit, or without git.
    """
    try:
        if Path(_git("rev-parse", "--show-toplevel")).resolve() != PROJECT:
            return None
        commit = _git("rev-parse", "--short", "HEAD")
        return commit + ("+dirty" if _git(*CHANGES) else "")
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(PROJECT), *arguments],
        check=True,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=10,
        env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},  # a status must not disturb a git that runs meanwhile
    ).stdout.strip()
