"""`check`: checks a bundle folder as it is checked before it serves; with held-out users, measures how it answers."""

from __future__ import annotations

import argparse

from inference_server.core.process_environment import limit_blas_threads
from inference_server.core.settings import Settings
from tandem.ops.arguments import path, whole_number
from tandem.ops.child_process import limit_memory, memory_for

SUMMARY = "check a bundle folder as it is checked before it serves"
PROCESS = "check"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the command takes."""
    parser.description = (
        "Verifies a bundle's checksums, opens it in the real engines and asks its golden queries. With --held-out or "
        "--against, users whose next item is known are answered too, as a worker answers them, by both bundles in "
        "turns: quality, coverage, latency, degraded answers. Exit status 0: it may serve; 1: it is refused, and the "
        "output says why; 2: wrong arguments. What held-out users were answered refuses nothing here: "
        "`python -m trainer validate` judges it."
    )
    parser.add_argument("directory", type=path, metavar="DIR", help="the bundle folder")
    parser.add_argument("--previous", type=path, metavar="DIR", help="compare with the bundle in this folder")
    parser.add_argument(
        "--held-out",
        type=path,
        metavar="FILE",
        help="answer these users: JSON lines as in a bundle's held_out_users.jsonl (default with --against: the users "
        "that the bundle itself holds)",
    )
    parser.add_argument(
        "--against", type=path, metavar="DIR", help="answer the same users with the bundle in this folder"
    )
    parser.add_argument(
        "-k", type=_num_items, default=10, metavar="ITEMS", help="items to ask for (default: %(default)s)"
    )
    parser.add_argument(
        "--policies", type=path, metavar="FILE", help="policies to answer by (default: TANDEM_POLICIES_FILE, or none)"
    )
    parser.add_argument("--json", action="store_true", help="print the result as one line of JSON")
    parser.add_argument("--output", type=path, metavar="FILE", help="write the JSON to this file too")


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Checks the bundle and prints the result."""
    # The latency measured is that of a worker; and each thread would take memory of its own.
    limit_blas_threads()
    folders = [folder for folder in (options.directory, options.previous, options.against) if folder is not None]
    limit_memory(memory_for(*folders, megabytes=settings.bundle_check_memory_mb))
    from inference_server.bundle_check.command import CheckOptions, run_check

    return run_check(
        CheckOptions(
            directory=options.directory,
            previous=options.previous,
            min_overlap=settings.min_swap_overlap,
            held_out=options.held_out,
            against=options.against,
            num_shown=options.k,
            policies_file=options.policies or settings.policies_file,
            json_output=options.json,
            output=options.output,
        )
    )


def _num_items(text: str) -> int:
    from inference_server.request.flow.limits import MAX_NUM_ITEMS

    return whole_number(1, MAX_NUM_ITEMS)(text)
