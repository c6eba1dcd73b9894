"""The one exception that is meant for the person at the keyboard."""


class UserError(Exception):
    """A mistake in a flag, a file or a folder, said in one line: what is wrong, where, and what to do.

    The command-line programs print the message as it is and leave with exit status 2; code that uses
    the package as a library can catch it like any other exception.
    """
