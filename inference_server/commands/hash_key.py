"""`hash-key`: makes the line of TANDEM_API_KEYS_FILE for an API key."""

from __future__ import annotations

import argparse
import sys

from inference_server.core.settings import Settings
from tandem.ops.arguments import number, whole_number

SUMMARY = "the line of TANDEM_API_KEYS_FILE for an API key"
PROCESS = "hash-key"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the command takes."""
    parser.description = (
        "Reads a key from standard input and prints its line for TANDEM_API_KEYS_FILE, which does not hold the key "
        "itself. With --generate it makes a key and writes it to standard error, where it is seen only once."
    )
    parser.add_argument("name", nargs="?", default="default", metavar="NAME", help="name of the caller, for the logs")
    parser.add_argument("--generate", action="store_true", help="make a new key")
    parser.add_argument(
        "--rights",
        metavar="RIGHTS",
        help="some of read,record,catalogue,operate (default: all, also of later versions)",
    )
    parser.add_argument("--users", default="", metavar="PREFIX", help="only for users whose ids begin with PREFIX")
    parser.add_argument(
        "--concurrent", type=whole_number(0, 100_000), default=0, metavar="N", help="calls in flight in each worker"
    )
    parser.add_argument("--rate", type=number(0, 1e6), default=0.0, metavar="N", help="calls a second in each worker")


def run(options: argparse.Namespace, _: Settings) -> int:
    """Prints the line; a key that was generated goes to standard error, so that the line alone can be redirected."""
    from inference_server.security.api_keys import generate_key, key_line, rights_of

    key = generate_key() if options.generate else sys.stdin.readline().rstrip("\r\n")
    try:
        line = key_line(
            options.name,
            key,
            rights=[] if options.rights is None else rights_of(options.rights),
            user_prefix=options.users,
            max_concurrent=options.concurrent,
            max_rate=options.rate,
        )
    except ValueError as error:
        print(f"inference_server: {error}", file=sys.stderr)
        return 2
    print(line)
    if options.generate:
        print(f"key: {key}", file=sys.stderr)
    return 0
