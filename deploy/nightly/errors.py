"""Exceptions of the nightly run.

NightlyError
+-- SettingsError  a variable that cannot be used, exit code 2
+-- StepFailed     a command ended with an error, or did not say what it did
+-- NotServed      the server does not serve the new model in time, or has refused it
"""


class NightlyError(Exception):
    """Root of the nightly run's exceptions. The message is for a person."""


class SettingsError(NightlyError):
    """A variable that cannot be used. The message names it."""


class StepFailed(NightlyError):
    """A command failed. The message names the command, whose own output is above it."""


class NotServed(NightlyError):
    """The server does not serve the new model. The message names the model that it serves, and the last refusal."""
