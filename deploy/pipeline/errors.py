"""Exceptions of the pipeline.

PipelineError
+-- ParametersError  a key of params.yaml that is missing or unknown, exit code 2
+-- StageFailed      a command ended with an error, or an input of the stage is missing
"""


class PipelineError(Exception):
    """Root of the pipeline's exceptions. The message is for a person."""


class ParametersError(PipelineError):
    """A wrong parameter. The message names file and key."""


class StageFailed(PipelineError):
    """A stage failed. The message names the command, whose own output is above it."""
