"""What is meant for the person at the keyboard: the one exception, and the one warning."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


class UserError(Exception):
    """A mistake in a flag, a file or a folder, said in one line: what is wrong, where, and what to do.

    The command-line programs print the message as it is and leave with exit status 2; code that uses
    the package as a library can catch it like any other exception.
    """


class UserCaution(UserWarning):
    """Something about a user's files that stops nothing and is good to know, said in one line."""


@contextmanager
def plain_cautions(program: str) -> Iterator[None]:
    """Inside the block each UserCaution is one line on stderr, "program: warning: ..."; other warnings are as ever.

    For the command-line programs: Python's own form has two lines, with a place in the source code.
    """
    with warnings.catch_warnings():
        show_others = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, UserCaution):
                print(f"{program}: warning: {message}", file=file or sys.stderr)
            else:
                show_others(message, category, filename, lineno, file, line)

        warnings.simplefilter("always", UserCaution)
        warnings.showwarning = show
        yield
