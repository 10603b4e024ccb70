"""Command line of the pipeline's stages, which `dvc repro` calls: python -m deploy.pipeline STAGE."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from deploy.pipeline.errors import ParametersError, PipelineError
from deploy.pipeline.parameters import load_parameters
from deploy.pipeline.stages import STAGES
from tandem.ops.process_start import start_process
from tandem.ops.secrets import redacted


def main(arguments: Sequence[str]) -> int:
    """Runs one stage; returns the exit status: 0 done, 1 failed, 2 a wrong argument or parameter."""
    if len(arguments) != 1 or arguments[0] not in STAGES:
        print(f"usage: python -m deploy.pipeline {'|'.join(STAGES)}", file=sys.stderr)
        return 2
    try:
        STAGES[arguments[0]](load_parameters())
    except ParametersError as error:
        print(f"pipeline: {redacted(str(error))}", file=sys.stderr)
        return 2
    except PipelineError as error:
        print(f"pipeline: {redacted(str(error))}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    start_process()
    sys.exit(main(sys.argv[1:]))
