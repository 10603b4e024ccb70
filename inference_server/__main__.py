"""`python -m inference_server`: parse, read the settings, run one command, end with its status.

Exit status: 0 done; 1 a refused bundle or policy file, a worker that ended, a port that is taken; 2 wrong arguments
or settings.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import sys
from pathlib import Path

import structlog

from inference_server.errors import BundleRefused, OperationError, PoliciesInvalid, SettingsError
from inference_server.logs import configure_logging
from inference_server.settings import Settings, settings_help

# Each command imports what it needs: the supervisor no engine, the worker no registry, --help neither.


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
    from inference_server.supervisor import supervise
    from inference_server.tracing import require_extra

    # Workers read them again; here, before there is any, a mistake ends with one line.
    Security.load(tls=settings.tls, api_keys_file=settings.api_keys_file)
    if settings.otlp_endpoint:
        require_extra()

    return asyncio.run(supervise(settings))


def _worker(arguments: argparse.Namespace, settings: Settings) -> int:
    # One thread for each matrix product: batches are small, and workers share the cores between them. Read by numpy
    # when it is imported, so set before it is.
    os.environ.update(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1")
    import uvloop

    from inference_server.worker import run_worker

    try:
        uvloop.run(run_worker(settings, socket.socket(fileno=arguments.control_fd)))
    except OperationError as error:
        structlog.get_logger().error("worker_failed", reason=str(error))
        return 1
    return 0


def _check(arguments: argparse.Namespace, _: Settings) -> int:
    from inference_server.check import check_bundle, describe, report_json

    try:
        report = check_bundle(arguments.directory)
    except BundleRefused as refused:
        print(report_json(refused) if arguments.json else f"refused: {refused}")
        return 1
    print(report_json(report) if arguments.json else describe(report))
    return 0


def _check_policies(arguments: argparse.Namespace, _: Settings) -> int:
    from inference_server.policies import describe_policies, load_policies

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
        description="Starts the worker that answers requests, and keeps it on the bundle that the registry's alias "
        "names (or on TANDEM_BUNDLE_PATH). SIGTERM and SIGINT stop it gracefully.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"Settings (environment variables):\n{settings_help()}",
    )
    serve.set_defaults(run=_serve, process="supervisor")
    check = commands.add_parser(
        "check",
        help="check a bundle folder as it is checked before it serves",
        description="Verifies a bundle's checksums, opens it in the real engines and asks its golden queries. "
        "Exit status 0: it may serve; 1: it is refused, and the output says why.",
    )
    check.add_argument("directory", type=Path, metavar="DIR", help="the bundle folder")
    check.add_argument("--json", action="store_true", help="print the result as one line of JSON")
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
    worker = commands.add_parser(
        "worker",
        help="internal: what `serve` starts to answer requests",
        description="Answers requests, controlled by a supervisor. Not to be started by hand: use `serve`.",
    )
    worker.add_argument("--control-fd", type=int, required=True, metavar="FD", help="socket to the supervisor")
    worker.set_defaults(run=_worker, process="worker")
    return parser


if __name__ == "__main__":
    sys.exit(main())
