"""Names on the command line of a benchmark, separated by commas."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection


def names_among(known: Collection[str], *, what: str) -> Callable[[str], list[str]]:
    """Parses names that must be among the known ones, for `type=`. `what` names them in messages, in the plural."""

    def chosen(text: str) -> list[str]:
        names = text.split(",")
        if unknown := sorted(set(names) - set(known)):
            raise argparse.ArgumentTypeError(f"unknown {what} {', '.join(unknown)}; there are {', '.join(known)}")
        return names

    return chosen
