"""Command line of the pipeline's stages, which `dvc repro` calls: python -m deploy.pipeline STAGE."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from deploy.pipeline.errors import ParametersError, PipelineError
from deploy.pipeline.parameters import load_parameters
from deploy.pipeline.stages import STAGES
from tandem.ops.command_line import EXIT_USAGE, Errors, exit_status
from tandem.ops.process_start import start_process

_ERRORS = Errors(prefix="pipeline", usage=(ParametersError,), failed=(PipelineError,))


def main(arguments: Sequence[str]) -> int:
    """Runs one stage; returns the exit status, see `tandem.ops.command_line`."""
    return exit_status(lambda: _run(arguments), _ERRORS)


def _run(arguments: Sequence[str]) -> int:
    if len(arguments) != 1 or arguments[0] not in STAGES:
        print(f"usage: python -m deploy.pipeline {'|'.join(STAGES)}", file=sys.stderr)
        return EXIT_USAGE
    STAGES[arguments[0]](load_parameters())
    return 0


if __name__ == "__main__":
    start_process()
    sys.exit(main(sys.argv[1:]))
