"""Recovers the number of the last change of the catalogue if the online store has lost it.

The counter of the feed lives in the store. In an emptied store it would restart at 1: the next bundle would take old
changes of the archive for newer than the new ones, and workers would skip the new ones. The archive and the bundles
still have the last number.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import structlog

from feature_sync.archive.tables import last_archived_sequence
from feature_sync.core.errors import ArchiveUnreadable, Unavailable

_log = structlog.get_logger(__name__)


class Numbering:
    """The last number that was given to a change. Not thread-safe."""

    def __init__(self, archive: Path, merged_sequence: Callable[[], int | None]) -> None:
        """`archive` is the folder of the archive of item changes, which may not exist.

        `merged_sequence` returns the last change that a live bundle has merged, None before the first poll of the
        bundles.
        """
        self._archive = archive
        self._merged_sequence = merged_sequence
        self._last: int | None = None

    def last(self, stored: int) -> int:
        """The last number given to a change, if the store's counter has the value `stored`.

        Reads the archive and the bundles at the start, and whenever the store has lost numbers that were given here.
        Raises Unavailable while the archive cannot be read, or neither source is known.
        """
        if self._last is None or stored < self._last:
            merged = self._merged_sequence()
            if merged is None and stored == 0:
                raise Unavailable("changes get no numbers before the registry was asked for bundles")
            last = max(self._last or 0, _last_archived(self._archive), merged or 0)
            if stored < last:
                _log.warning("item_changes_go_on", stored=stored, last=last, reason="the store has lost its counter")
            self._last = last
        self._last = max(self._last, stored)
        return self._last

    def give(self, last: int) -> None:
        """Notes that changes up to this number are in the store."""
        self._last = last


def _last_archived(folder: Path) -> int:
    try:
        return last_archived_sequence(folder)
    except (ArchiveUnreadable, OSError) as error:
        raise Unavailable(f"changes get no numbers while the archive cannot be read: {error}") from error
