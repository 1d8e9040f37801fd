"""The one exception for what a user can put right: a wrong argument, file or model."""

from __future__ import annotations


class UserError(Exception):
    """Bad input. The message is one line: the argument, what came, what was expected.

    The command line prints it without a traceback and exits with code 2.
    """
