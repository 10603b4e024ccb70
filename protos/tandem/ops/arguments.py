"""Values on a command line, for `type=` of argparse: numbers within bounds, times, words."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

_WHOLE: Final = re.compile(r"[+-]?[0-9]{1,18}")
_NUMBER: Final = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,4})?")
_SHOWN_CHARACTERS: Final = 60


def whole_number(minimum: int, maximum: int | None = None) -> Callable[[str], int]:
    """Parses a whole number from `minimum` to `maximum`, both included."""

    def parsed(text: str) -> int:
        # int() takes much that is a mistake here: 1_000, blanks, digits of other scripts.
        number = int(text) if _WHOLE.fullmatch(text) else None
        if number is None or number < minimum or (maximum is not None and number > maximum):
            raise argparse.ArgumentTypeError(f"must be a whole number {_bounds(minimum, maximum)}, not {shown(text)}")
        return number

    return parsed


def number(minimum: float, maximum: float) -> Callable[[str], float]:
    """Parses a finite number from `minimum` to `maximum`, both included."""

    def parsed(text: str) -> float:
        found = float(text) if _NUMBER.fullmatch(text) else math.nan
        if not minimum <= found <= maximum:
            raise argparse.ArgumentTypeError(f"must be a number {_bounds(minimum, maximum)}, not {shown(text)}")
        return found

    return parsed


def moment(text: str) -> datetime:
    """Parses a time, see `utc_moment`."""
    try:
        return utc_moment(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def utc_moment(text: str) -> datetime:
    """A time in ISO 8601, in UTC where it names no offset. Raises ValueError for other text."""
    try:
        found = datetime.fromisoformat(text)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):  # the offset may lead out of the years 1 to 9999
        raise ValueError(f"must be an ISO 8601 time such as 2026-01-31T12:00, not {shown(text)}") from None


def identifier(text: str) -> str:
    """Parses the id of a user or an item, of any characters: 1 to MAX_ID_BYTES bytes of UTF-8."""
    from tandem.contract.store import MAX_ID_BYTES  # with numpy, which --help does not need

    try:
        num_bytes = len(text.encode())
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"must be text in UTF-8, not {shown(text)}") from None
    if not 1 <= num_bytes <= MAX_ID_BYTES:
        raise argparse.ArgumentTypeError(f"must have 1 to {MAX_ID_BYTES} bytes of UTF-8, not {num_bytes:,}")
    return text


def word(text: str) -> str:
    """Parses a name, an alias or a version: an `identifier` of printable characters that is not blank."""
    if not identifier(text).strip() or not text.isprintable():
        raise argparse.ArgumentTypeError(f"must be printable text that is not blank, not {shown(text)}")
    return text


def given(text: str) -> str:
    """Parses a text that must not be blank: a path, a URL, a name that a file has too."""
    if not text.strip():
        raise argparse.ArgumentTypeError("must not be blank")
    try:
        return one_line(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def path(text: str) -> Path:
    """Parses a path, which must not be blank."""
    return Path(given(text))


def one_line(text: str) -> str:
    """The text, which logs and messages quote as it is. Raises ValueError if it has several lines."""
    if len(f"{text}.".splitlines()) > 1:
        raise ValueError(f"must be one line, not {shown(text)}")
    return text


def shown(text: str) -> str:
    """A text as messages quote it: on one line, and not at any length."""
    return ascii(text) if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]!a}..."


def _bounds(minimum: float, maximum: float | None) -> str:
    return f"of at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
