"""Words with which other programs write a missing value, where no key of the configuration says so."""

from __future__ import annotations

from typing import Final

from tandem.contract.numbers import finite_number

MISSING_WORDS: Final = (
    *("\\n", "null", "(null)", "<null>", "none", "nil", "undefined", "missing", "unknown", "anonymous"),
    *("nan", "nat", "na", "n/a", "#n/a", "#null!", "<na>", "-", "--", "?", "[]", "{}", "()", '""', "''"),
)
"""In lower case. An id may be such a word (there is an artist "nan"), so ids are only checked against them."""
MISSING_NUMBERS: Final = ("0", "-1")
"""Numbers that some programs write for a missing id, and others for the first one."""


def is_missing_number(text: str) -> bool:
    """Whether a text among numbers is a missing value: NaN, infinity, or one of `MISSING_WORDS`."""
    word = text.strip().lower()
    return word in MISSING_WORDS or (finite_number(word) is None and _is_number(word))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
