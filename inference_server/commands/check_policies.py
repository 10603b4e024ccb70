"""`check-policies`: checks a file of policies as the server checks it before it is in force."""

from __future__ import annotations

import argparse

from inference_server.core.errors import PoliciesInvalid
from inference_server.core.settings import Settings
from tandem.ops.arguments import path

SUMMARY = "check a file of policies as it is checked before it is in force"
PROCESS = "check"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the command takes."""
    parser.description = (
        "Reads a file of policies as the server reads it. Exit status 0: it would be in force, and its policies are "
        "shown in full; 1: it would be refused, and each line of the output says file, line, key and why."
    )
    parser.add_argument("file", type=path, metavar="FILE", help="the YAML file")


def run(options: argparse.Namespace, _: Settings) -> int:
    """Prints the policies in full, or one line for each problem of the file."""
    from inference_server.policy.policy_file import describe_policies, load_policies
    from inference_server.request.policy_choices import policy_choices

    try:
        policies = load_policies(options.file, policy_choices())
    except PoliciesInvalid as refused:
        print("\n".join(refused.problems))
        return 1
    print(describe_policies(policies))
    return 0
