"""A place that may hold something of a user, and what every place can do: find it, and erase it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from feature_sync.core.errors import FeatureSyncError
from tandem.contract.errors import ContractError
from tandem.ops.secrets import redacted
from tandem.ops.storage_errors import storage_error_line

UNREACHABLE: Final = (FeatureSyncError, ContractError, OSError)
"""What is raised where a place cannot be reached."""
_SHOWN_REASONS: Final = 5
_Part = TypeVar("_Part")

Record = dict[str, Any]
"""One thing that a place holds of a user, as JSON values."""


@dataclass(frozen=True)
class Subject:
    """The user, and up to when: a user who comes back after a deletion is a new beginning."""

    user_id: str
    until: int
    """Microseconds since 1970: what occurred or was received later is not meant."""


class Place(Protocol):
    """One place. Both methods raise FeatureSyncError, ContractError or OSError if the place cannot be reached."""

    name: str
    where: str
    """Folder, key or address, for people."""

    def find(self, user: Subject) -> Sequence[Record]:
        """What the place holds of the user."""
        ...

    def erase(self, user: Subject) -> int:
        """Removes what `find` returns; returns the number of records that were removed. Safe to repeat after a kill at
        any moment."""
        ...


class PartlyDone(FeatureSyncError):
    """Some parts of a place could not be reached, for these reasons; the others are done."""

    def __init__(self, reasons: Sequence[Exception], num_removed: int) -> None:
        super().__init__(f"{len(reasons)} parts could not be reached")
        self.reasons = reasons
        self.num_removed = num_removed


def erased_from(parts: Iterable[_Part], erase: Callable[[_Part], int]) -> int:
    """Erases part by part, and returns the number of records that were removed.

    A part that cannot be reached does not keep the others from being erased: raises PartlyDone after the last one.
    """
    num_removed, reasons = 0, list[Exception]()
    for part in parts:
        try:
            num_removed += erase(part)
        except PartlyDone as error:
            num_removed += error.num_removed
            reasons += error.reasons
        except UNREACHABLE as error:
            reasons.append(error)
    if reasons:
        raise PartlyDone(reasons, num_removed)
    return num_removed


def problem_line(error: Exception, data_dir: Path) -> str:
    """Why a place could not be reached, in one line."""
    if isinstance(error, PartlyDone):
        shown = [problem_line(reason, data_dir) for reason in error.reasons[:_SHOWN_REASONS]]
        return "; ".join([*shown, *(["..."] if error.reasons[_SHOWN_REASONS:] else [])])
    return storage_error_line(error, data_dir) if isinstance(error, OSError) else redacted(str(error))


def word_pattern(user_id: str) -> str:
    """A regular expression of the id as a word of a line of data: "10" is none of "10.5" or "a10"."""
    return rf"(?<![\w.@-]){re.escape(user_id)}(?![\w.@-])"
