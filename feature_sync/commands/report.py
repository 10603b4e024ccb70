"""How a command prints its result: as JSON on standard output, for people indented, for programs on one line."""

from __future__ import annotations

import json
from collections.abc import Mapping


def print_indented(result: Mapping[str, object]) -> None:
    """For commands that people read."""
    print(json.dumps(result, ensure_ascii=False, indent=2))


def print_line(result: Mapping[str, object]) -> None:
    """For commands whose result the next program reads: one line, the last of the output."""
    print(json.dumps(result, ensure_ascii=False))
