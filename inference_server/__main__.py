"""`python -m inference_server`: parse, read the settings, run one command, end with its status.

Exit status: 0 done; 1 a refused bundle or policy file, workers that do not come up, a port that is taken, a command
that could not be done in full; 2 wrong arguments or settings.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import sys
from pathlib import Path
from typing import Final

import structlog

from inference_server.core.errors import OperationError, PoliciesInvalid, SettingsError
from inference_server.core.settings import Settings, settings_help
from inference_server.telemetry.logs import configure_logging

_ONE_THREAD: Final = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
"""One thread for each matrix product: batches are small, and workers share the cores between them. Read by numpy when
it is imported, so it has to be set before."""
GRPC_EXPERIMENTS: Final = "-event_engine_listener"
"""gRPC's newer listener hands each event from thread to thread: 17 switches a request instead of 12, and a tenth less
throughput of a core (docs/decisions/0051-threads-of-grpc.md). Read by gRPC when it starts."""

# Each command imports what it needs: the supervisor no engine, the worker no registry and no metrics, --help none.


def main() -> int:
    """Runs the command line and returns the exit status."""
    arguments = _parser().parse_args()
    try:
        settings = Settings.load()
    except SettingsError as error:
        print(f"inference_server: {error}", file=sys.stderr)
        return 2
    configure_logging(settings.log_level, process=arguments.process)
    try:
        status: int = arguments.run(arguments, settings)
    except SettingsError as error:
        print(f"inference_server: {error}", file=sys.stderr)
        return 2
    return status


def _serve(_: argparse.Namespace, settings: Settings) -> int:
    from inference_server.security.files import Security
    from inference_server.supervisor.supervisor import supervise
    from inference_server.telemetry.tracing import require_extra

    # Workers read them again; here, before there is any, a mistake ends with one line.
    Security.load(tls=settings.tls, api_keys_file=settings.api_keys_file)
    if settings.otlp_endpoint:
        require_extra()

    return asyncio.run(supervise(settings))


def _template(arguments: argparse.Namespace, settings: Settings) -> int:
    os.environ.update(_ONE_THREAD)
    os.environ.setdefault("GRPC_EXPERIMENTS", GRPC_EXPERIMENTS)
    import uvloop

    from inference_server.telemetry.statistics import WorkerIdentity
    from inference_server.worker.fork_server import run_template
    from inference_server.worker.worker import run_worker

    def run(identity: WorkerIdentity, control: socket.socket) -> int:
        try:
            uvloop.run(run_worker(settings, identity, control))
        except OperationError as error:
            structlog.get_logger().error("worker_failed", reason=str(error))
            return 1
        except Exception:  # one line of JSON, as everything else that is logged
            structlog.get_logger().exception("worker_failed")
            return 1
        return 0

    run_template(socket.socket(fileno=arguments.control_fd), run)
    return 0


def _command(arguments: argparse.Namespace, settings: Settings) -> int:
    from inference_server.supervisor.operator_commands import run_command
    from inference_server.supervisor.operator_socket import Command

    return asyncio.run(run_command(settings, Command(name=arguments.command, to=arguments.to)))


def _check(arguments: argparse.Namespace, settings: Settings) -> int:
    if arguments.held_out is not None or arguments.against is not None:
        os.environ.update(_ONE_THREAD)  # as a worker serves
    from inference_server.bundle_check.command import CheckOptions, run_check

    return run_check(
        CheckOptions(
            directory=arguments.directory,
            previous=arguments.previous,
            min_overlap=settings.min_swap_overlap,
            held_out=arguments.held_out,
            against=arguments.against,
            num_shown=arguments.k,
            policies_file=arguments.policies or settings.policies_file,
            json_output=arguments.json,
            output=arguments.output,
        )
    )


def _check_policies(arguments: argparse.Namespace, _: Settings) -> int:
    from inference_server.policy.policy_file import describe_policies, load_policies

    try:
        policies = load_policies(arguments.file)
    except PoliciesInvalid as refused:
        print("\n".join(refused.problems))
        return 1
    print(describe_policies(policies))
    return 0


def _hash_key(arguments: argparse.Namespace, _: Settings) -> int:
    from inference_server.security.api_keys import generate_key, key_line

    key = generate_key() if arguments.generate else sys.stdin.readline().rstrip("\r\n")
    try:
        line = key_line(arguments.name, key)
    except ValueError as error:
        print(f"inference_server: {error}", file=sys.stderr)
        return 2
    print(line)
    if arguments.generate:
        print(f"key: {key}", file=sys.stderr)
    return 0


def _num_items(text: str) -> int:
    from inference_server.request.flow.limits import MAX_NUM_ITEMS

    number = int(text)
    if not 1 <= number <= MAX_NUM_ITEMS:
        raise argparse.ArgumentTypeError(f"must be in 1..{MAX_NUM_ITEMS}, is {number}")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m inference_server",
        description="Answers tandem.v1.RecommendationService from a bundle and the online store.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"Settings (environment variables):\n{settings_help()}",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    serve = commands.add_parser(
        "serve",
        help="serve, and follow the registry's alias",
        description="Starts the workers that answer requests, and keeps them on the bundle that the registry's alias "
        "names (or on TANDEM_BUNDLE_PATH). SIGTERM and SIGINT stop them gracefully.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"Settings (environment variables):\n{settings_help()}",
    )
    serve.set_defaults(run=_serve, process="supervisor")
    check = commands.add_parser(
        "check",
        help="check a bundle folder as it is checked before it serves",
        description="Verifies a bundle's checksums, opens it in the real engines and asks its golden queries. With "
        "--held-out or --against, users whose next item is known are answered too, as a worker answers them, by both "
        "bundles in turns: quality, coverage, latency, degraded answers. Exit status 0: it may serve; 1: it is "
        "refused, and the output says why; 2: wrong arguments. What held-out users were answered refuses nothing here: "
        "`python -m trainer validate` judges it.",
    )
    check.add_argument("directory", type=Path, metavar="DIR", help="the bundle folder")
    check.add_argument("--previous", type=Path, metavar="DIR", help="compare with the bundle in this folder")
    check.add_argument(
        "--held-out",
        type=Path,
        metavar="FILE",
        help="answer these users: JSON lines as in a bundle's held_out_users.jsonl (default with --against: the users "
        "that the bundle itself holds)",
    )
    check.add_argument(
        "--against", type=Path, metavar="DIR", help="answer the same users with the bundle in this folder"
    )
    check.add_argument(
        "-k", type=_num_items, default=10, metavar="ITEMS", help="items to ask for (default: %(default)s)"
    )
    check.add_argument(
        "--policies", type=Path, metavar="FILE", help="policies to answer by (default: TANDEM_POLICIES_FILE, or none)"
    )
    check.add_argument("--json", action="store_true", help="print the result as one line of JSON")
    check.add_argument("--output", type=Path, metavar="FILE", help="write the JSON to this file too")
    check.set_defaults(run=_check, process="check")
    check_policies = commands.add_parser(
        "check-policies",
        help="check a file of policies as it is checked before it is in force",
        description="Reads a file of policies as the server reads it. Exit status 0: it would be in force, and its "
        "policies are shown in full; 1: it would be refused, and each line of the output says file, line, key and why.",
    )
    check_policies.add_argument("file", type=Path, metavar="FILE", help="the YAML file")
    check_policies.set_defaults(run=_check_policies, process="check")
    hash_key = commands.add_parser(
        "hash-key",
        help="the line of TANDEM_API_KEYS_FILE for an API key",
        description="Reads a key from standard input and prints its line for TANDEM_API_KEYS_FILE, which does not hold "
        "the key itself. With --generate it makes a key and writes it to standard error, where it is seen only once.",
    )
    hash_key.add_argument("name", nargs="?", default="default", metavar="NAME", help="name of the caller, for the logs")
    hash_key.add_argument("--generate", action="store_true", help="make a new key")
    hash_key.set_defaults(run=_hash_key, process="hash-key")
    rollback = commands.add_parser(
        "rollback",
        help="go back to the version that served before, at once",
        description="Has the running server of TANDEM_DATA_DIR answer with the version that served before, which it "
        "has still open, and moves the registry's alias there, so that every other server follows. A second rollback "
        "undoes the first. Without a running server the alias alone is moved. Exit status 1: not everything could be "
        "done; what could not is said on stderr.",
    )
    rollback.add_argument("--to", metavar="VERSION", help="registry version to go to (default: the one before)")
    rollback.set_defaults(run=_command, process="rollback")
    forget = commands.add_parser(
        "forget-refusals",
        help="let a version that failed its check be tried again",
        description="A version that failed its check is not tried again, also after a restart, until the alias has "
        "named another one. This forgets it: for refusals whose reason was on this machine.",
    )
    forget.set_defaults(run=_command, process="forget-refusals", to=None)
    template = commands.add_parser(
        "template",
        help="internal: what `serve` forks its workers from",
        description="Forks workers for a supervisor. Not to be started by hand: use `serve`.",
    )
    template.add_argument("--control-fd", type=int, required=True, metavar="FD", help="socket to the supervisor")
    template.set_defaults(run=_template, process="worker")
    return parser


if __name__ == "__main__":
    sys.exit(main())
