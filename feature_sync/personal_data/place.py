"""A place that may hold something of a user, and what every place can do: find it, and erase it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from feature_sync.core.settings import Settings
from tandem.ops.secrets import redacted
from tandem.ops.storage_errors import storage_error_line

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


def problem_line(error: Exception, settings: Settings) -> str:
    """Why a place could not be reached, in one line."""
    return storage_error_line(error, settings.data_dir) if isinstance(error, OSError) else redacted(str(error))


def word_pattern(user_id: str) -> str:
    """A regular expression of the id as a word of a line of data: "10" is none of "10.5" or "a10"."""
    return rf"(?<![\w.@-]){re.escape(user_id)}(?![\w.@-])"
