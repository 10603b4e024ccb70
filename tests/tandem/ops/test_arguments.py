"""Values on a command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tandem.ops.arguments import identifier, moment, number, path, whole_number, word


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (whole_number(1), "7", 7),
        (whole_number(-5), "-5", -5),
        (whole_number(0, 9), "+09", 9),
        (number(0, 1e6), "2.5", 2.5),
        (number(0, 1e6), "1e3", 1000.0),
        (number(0, 1e6), ".5", 0.5),
        (moment, "2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)),
        (moment, "2026-01-31T01:00+02:00", datetime(2026, 1, 30, 23, tzinfo=UTC)),
        (identifier, "ein Gast\n😀", "ein Gast\n😀"),
        (word, "challenger", "challenger"),
        (path, "/x/a\tb \u00a0\udcff", Path("/x/a\tb \u00a0\udcff")),
    ],
)
def test_values_are_read(parse: Callable[[str], object], text: str, value: object) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (whole_number(1), "0", "must be a whole number of at least 1, not '0'"),
        *((whole_number(0, 9), text, "must be a whole number from 0 to 9") for text in ("", " 5", "1_0", "٣", "1.0")),
        (whole_number(1), "9" * 5000, f"not '{'9' * 60}'..."),
        *(
            (number(0, 1e6), text, "must be a number from 0 to 1000000.0")
            for text in ("nan", "inf", "-1", "1e400", "x")
        ),
        *((moment, text, "must be an ISO 8601 time") for text in ("", "yesterday", "0001-01-01T00:00+05:00")),
        (identifier, "", "must have 1 to 256 bytes of UTF-8, not 0"),
        (identifier, "ä" * 200, "must have 1 to 256 bytes of UTF-8, not 400"),
        (identifier, "\udcff", r"must be text in UTF-8, not '\\udcff'"),
        *((path, text, f"must be one line, not {text!a}") for text in ("a\nb", "a\r", "/x/\u2028y")),
        *((word, text, "must be printable text that is not blank") for text in (" ", "a\nb", "\x1b[31m", "\u202e")),
    ],
)
def test_a_value_that_cannot_be_used_is_quoted(parse: Callable[[str], object], text: str, message: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError) as refused:
        parse(text)
    assert message.replace(r"\\", "\\") in str(refused.value)
