"""Exceptions of the simulator.

SimulationError
+-- UsageError      a wrong argument; the message names it
+-- LoadFailed      the server does not answer, or refuses what every visit asks for
"""


class SimulationError(Exception):
    """Root of the simulator's exceptions. The message is for a person."""


class UsageError(SimulationError):
    """A wrong argument, or a folder that cannot be used. The message names it."""


class LoadFailed(SimulationError):
    """The server cannot be driven. The message says what it answered."""
