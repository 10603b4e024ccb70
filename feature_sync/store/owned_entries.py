"""Entries of streams that belong to a user, read as what a deletion has to know of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from tandem.contract.deleted_users import is_left_out
from tandem.contract.impressions import Impression
from tandem.contract.streams import EVENTS, IMPRESSIONS, Event


@dataclass(frozen=True, slots=True)
class OwnedEntry:
    """An entry and its user."""

    value: Event | Impression
    user_id: str
    """Empty: nobody's."""
    occurred_at: int
    """Microseconds since 1970."""
    received_at: int
    """Microseconds since 1970."""

    def is_left_out(self, deleted_at: int | None) -> bool:
        """Whether a deletion of the user at this moment, in microseconds since 1970, takes the entry away."""
        return is_left_out(deleted_at, self.occurred_at, self.received_at)

    def to_dict(self) -> dict[str, Any]:
        """The entry as JSON values."""
        return asdict(self.value) if isinstance(self.value, Event) else self.value.to_dict()


def _event(payload: bytes) -> OwnedEntry:
    event = Event.from_bytes(payload)
    return OwnedEntry(event, event.user_id, event.occurred_at, event.received_at)


def _impression(payload: bytes) -> OwnedEntry:
    impression = Impression.from_bytes(payload)
    return OwnedEntry(impression, impression.user_id, impression.timestamp, impression.timestamp)


_READERS: Final[Mapping[str, Callable[[bytes], OwnedEntry]]] = {EVENTS: _event, IMPRESSIONS: _impression}
OWNED_STREAMS: Final = tuple(_READERS)
"""Streams whose entries belong to users: EVENTS and IMPRESSIONS."""


def owned_entry(stream: str, payload: bytes) -> OwnedEntry:
    """An entry of EVENTS or IMPRESSIONS. Raises StreamEntryError."""
    return _READERS[stream](payload)
