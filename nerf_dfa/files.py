"""Writing files so that a kill or a full disk leaves the old file or the new one, never half of one.

And so that two processes do not write the same results: each would lose the other's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nerf_dfa.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A file beside `path` to write to; it becomes `path` when the block ends well and vanishes otherwise.

    The contents reach the disk before the name does, so that a power cut leaves no empty file either.
    """
    unfinished = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield unfinished
        with open(unfinished, "rb") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Text in UTF-8, written whole."""
    with written_whole(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Inside the block no other process is in one of the same path, a hidden file that is made and removed here.

    A process that is killed leaves the file, which then keeps no one out. Where the system cannot lock files all come
    in. Raises UserError where another process is in.
    """
    if fcntl is None:
        yield
        return
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            raise UserError(f"{path.parent}: another process is writing here ({path.name}); wait for it") from None
        except OSError:  # a file system without locks
            break
        if path.exists() and os.path.samestat(os.fstat(file), path.stat()):
            break
        os.close(file)  # it was removed, by the process that had it, between these lines
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(file)
