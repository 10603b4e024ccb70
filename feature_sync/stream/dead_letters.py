"""Entries that could not be applied: kept unchanged, with the reason, until an operator replays or drops them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import structlog

from feature_sync.store.connection import Command, StoreConnection
from feature_sync.stream.source import Entry
from tandem.contract.streams import DEAD_REASON_FIELD, ENTRY_FIELD, dead_letters_key

_MAX_REASON_CHARACTERS: Final = 500

_log = structlog.get_logger(__name__)


class DeadLetters:
    """The dead letters of one stream, in the online store."""

    def __init__(self, store: StoreConnection, stream: str, *, max_entries: int) -> None:
        """Keeps the newest `max_entries`. Only the metrics show that older dead letters were dropped."""
        self._store = store
        self.stream = stream
        self._key = dead_letters_key(stream)
        self._max_entries = max_entries

    def bury(self, entry: Entry, reason: str, acknowledgement: Sequence[Command]) -> None:
        """Stores an entry, and acknowledges it in the same transaction. Raises StoreAway."""
        reason = reason[:_MAX_REASON_CHARACTERS]
        append: Command = (
            *("XADD", self._key, "MAXLEN", "~", self._max_entries, "*"),
            *(ENTRY_FIELD, entry.payload or b"", DEAD_REASON_FIELD, reason),
        )
        self._store.transaction([append, *acknowledgement])
        _log.warning("dead_letter", stream=self.stream, position=entry.position, reason=reason)
