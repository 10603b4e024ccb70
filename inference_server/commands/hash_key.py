"""`hash-key`: makes the line of TANDEM_API_KEYS_FILE for an API key."""

from __future__ import annotations

import argparse
import sys

from inference_server.core.settings import Settings

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


def run(options: argparse.Namespace, _: Settings) -> int:
    """Prints the line; a key that was generated goes to standard error, so that the line alone can be redirected."""
    from inference_server.security.api_keys import generate_key, key_line

    key = generate_key() if options.generate else sys.stdin.readline().rstrip("\r\n")
    try:
        line = key_line(options.name, key)
    except ValueError as error:
        print(f"inference_server: {error}", file=sys.stderr)
        return 2
    print(line)
    if options.generate:
        print(f"key: {key}", file=sys.stderr)
    return 0
