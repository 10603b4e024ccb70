"""`replay-requests`: answers logged requests anew with a bundle and a policy, for `python -m trainer replay-log`."""

from __future__ import annotations

import argparse

from inference_server.core.process_environment import limit_blas_threads
from inference_server.core.settings import Settings
from tandem.ops.arguments import path, word
from tandem.ops.child_process import limit_memory, memory_for

SUMMARY = "answer logged requests anew, for `python -m trainer replay-log`"
PROCESS = "check"
_MEMORY_PER_REQUEST_BYTE = 8
"""States, their bytes and the candidates of their requests take a few times the size of the file."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the command takes."""
    parser.description = (
        "Answers the requests of a file with a bundle and a policy, as a worker answers them, and writes the order of "
        "each request's candidates before exploration. `python -m trainer replay-log` writes the file and reads the "
        "result."
    )
    parser.add_argument("directory", type=path, metavar="DIR", help="the bundle folder")
    parser.add_argument("--requests", type=path, metavar="FILE", required=True, help="the requests")
    parser.add_argument("--output", type=path, metavar="FILE", required=True, help="write the orders to this file")
    parser.add_argument(
        "--policies", type=path, metavar="FILE", help="policies to answer by (default: the built-in policy)"
    )
    parser.add_argument(
        "--scenario", type=word, metavar="NAME", help="scenario to answer by (default: the default policy)"
    )


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Answers the requests and prints how many."""
    limit_blas_threads()
    for_bundle = memory_for(options.directory, megabytes=settings.bundle_check_memory_mb)
    limit_memory(for_bundle + _MEMORY_PER_REQUEST_BYTE * options.requests.stat().st_size)
    from inference_server.bundle_check.replayed_requests import run_replay

    print(
        run_replay(
            options.directory,
            requests=options.requests,
            policies_file=options.policies,
            scenario=options.scenario or "",
            output=options.output,
        )
    )
    return 0
