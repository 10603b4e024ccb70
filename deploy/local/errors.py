"""Exceptions of the local stack.

StackError
+-- SettingsError  a setting that cannot be used, exit code 2
+-- PortTaken      a port that the stack needs is in use
+-- ChildFailed    a program ended that should not have, or ended with an error
+-- NotReady       the server did not become ready, or gave a wrong answer
"""


class StackError(Exception):
    """Root of the local stack's exceptions. The message is for a person."""


class SettingsError(StackError):
    """A setting that cannot be used. The message names the variable."""


class PortTaken(StackError):
    """Another program listens on a port that the stack needs."""


class ChildFailed(StackError):
    """A child process failed. The message names it and ends with the last lines of its output."""


class NotReady(StackError):
    """The stack runs, but its answer is wrong."""
