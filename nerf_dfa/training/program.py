"""What the command-line programs of the tasks have in common: messages of one line, and exit statuses."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from nerf_dfa.errors import UserError
from nerf_dfa.machine import out_of_memory

INTERRUPTED = 130  # exit status of a program that Ctrl-C ended


class OneLineErrors:
    """For a parser, before its own class: errors are one line and raise UserError."""

    def error(self, message: str) -> NoReturn:
        raise UserError(" ".join(message.split()))


class Parser(OneLineErrors, argparse.ArgumentParser):
    """A parser whose errors are one line and raise UserError."""


def positive(text: str) -> int:
    """A flag's whole number above 0, as argparse's `type`."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def seed(text: str) -> int:
    """A flag's seed, as argparse's `type`: a whole number that all random generators take."""
    if not text.isascii() or not text.isdigit() or int(text) >= 1 << 63:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 2^63 - 1")
    return int(text)


def listed(flag: str, text: str, known: Sequence[str]) -> tuple[str, ...]:
    """A flag's items with commas between them, each once. Raises UserError for one that is not known."""
    items = tuple(dict.fromkeys(item.strip() for item in text.split(",")))
    for item in items:
        if item not in known:
            raise UserError(f"--{flag} {text}: unknown '{item}'; there are {', '.join(known)}")
    return items


def run_program(name: str, body: Callable[[], None]) -> int:
    """Exit status 0, 2 for a user's mistake (one line), 130 when interrupted."""
    try:
        body()
    except UserError as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # of reading, each is a UserError
        print(f"{name}: error: cannot write {error.filename or 'results'}: {error.strerror or error}", file=sys.stderr)
        return 2
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        print(f"{name}: error: out of memory: give a smaller batch or model, or fewer --jobs", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{name}: interrupted; the same command goes on from the last finished run", file=sys.stderr)
        return INTERRUPTED
    return 0
