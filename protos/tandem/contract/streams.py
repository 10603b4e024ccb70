"""Streams between the server, which appends, and feature_sync, which reads: their keys and the bytes of their entries.

An entry of a Redis stream has a single field, ENTRY_FIELD. A Kafka message carries the same bytes as its value, and the
user or item id as its key, so that the events of a user and the changes of an item stay in order.

| Redis key                  | Kafka topic           | entries                       | appended by              |
| -------------------------- | --------------------- | ----------------------------- | ------------------------ |
| `tandem/1/events`          | `tandem.events`       | `Event`                       | server: RecordEvents     |
| `tandem/1/item-changes`    | `tandem.item-changes` | `ItemChange`                  | server: Upsert-, DeleteItems |
| `tandem/1/impressions`     | `tandem.impressions`  | `impressions.Impression`      | server, after each answer |
| `.../events/applied`       |                       | `Event`, each exactly once    | feature_sync             |
| `.../item-changes/applied` |                       | `AppliedItemChange`, likewise | feature_sync             |
| `.../impressions/applied`  |                       | `Impression`, each exactly once | feature_sync           |
| `.../dead` of each         |                       | the original bytes, the reason | feature_sync             |
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from tandem.contract import names
from tandem.contract.errors import StreamEntryError
from tandem.contract.store import KEY_PREFIX

ENTRY_FIELD: Final = b"e"
"""The field of a stream entry that holds its bytes."""
DEAD_REASON_FIELD: Final = b"reason"
"""Why an entry of a dead-letter stream could not be applied: text."""
CONSUMER_GROUP: Final = "feature_sync"

EVENTS: Final = "events"
ITEM_CHANGES: Final = "item-changes"
IMPRESSIONS: Final = "impressions"
ALL_STREAMS: Final = (EVENTS, ITEM_CHANGES, IMPRESSIONS)

_EVENT_FORMAT: Final = 1
# format, event code, byte lengths of event, user, item and request id and of the currency, position, occurred,
# received, value. Entries of before 0.4 had zeros as padding in place of the currency's length.
_EVENT_HEADER: Final = struct.Struct("<BBHHHHHiqqd")
_ITEM_CHANGE_FORMAT: Final = 1
NO_POSITION: Final = -1


def stream_key(name: str) -> bytes:
    """Redis key of a stream; `name` is EVENTS, ITEM_CHANGES or IMPRESSIONS."""
    return KEY_PREFIX + name.encode()


def applied_key(name: str) -> bytes:
    """Redis key of the log of applied entries: each once, in the order in which they took effect."""
    return stream_key(name) + b"/applied"


def dead_letters_key(name: str) -> bytes:
    """Redis key of the dead-letter stream: entries that could not be applied."""
    return stream_key(name) + b"/dead"


def kafka_topic(name: str) -> str:
    """Kafka topic of a stream; `name` is EVENTS, ITEM_CHANGES or IMPRESSIONS."""
    return f"tandem.{name}"


def kafka_options(url: str) -> dict[str, str]:
    """librdkafka options of a URL, for example `kafka://host:9092,host:9092?security.protocol=ssl`."""
    parts = urlsplit(url)
    return {"bootstrap.servers": parts.netloc, **dict(parse_qsl(parts.query))}


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One interaction of a user with an item."""

    event_id: str
    """Unique id: an event that is recorded twice takes effect once."""
    user_id: str
    item_id: str
    type: str
    """One of names.EVENT_TYPES."""
    occurred_at: int
    """Microseconds since 1970."""
    received_at: int
    """When the server accepted it, microseconds since 1970."""
    value: float = 0.0
    """The rating, the dwell time in milliseconds, or what was paid for a purchase; 0 for other types."""
    request_id: str = ""
    """The response that showed the item; empty if unknown."""
    position: int = NO_POSITION
    """0-based position in that response; NO_POSITION if unknown."""
    currency: str = ""
    """Of a purchase's value, as ISO 4217 names it; empty if nothing was paid."""

    def to_bytes(self) -> bytes:
        """Packs the event: header, then the four ids and the currency as UTF-8."""
        ids = [text.encode() for text in (self.event_id, self.user_id, self.item_id, self.request_id, self.currency)]
        header = _EVENT_HEADER.pack(
            _EVENT_FORMAT,
            names.EVENT_CODES[self.type],
            *map(len, ids),
            self.position,
            self.occurred_at,
            self.received_at,
            self.value,
        )
        return header + b"".join(ids)

    @classmethod
    def from_bytes(cls, entry: bytes) -> Event:
        """Reads a packed event. Raises StreamEntryError."""
        if len(entry) < _EVENT_HEADER.size or entry[0] != _EVENT_FORMAT:
            raise StreamEntryError(f"event: {_describe(entry)} is not format {_EVENT_FORMAT}")
        _, code, *lengths, position, occurred_at, received_at, value = _EVENT_HEADER.unpack_from(entry)
        if not 1 <= code <= len(names.EVENT_TYPES):
            raise StreamEntryError(f"event: {code} is the code of no type")
        if len(entry) != _EVENT_HEADER.size + sum(lengths):
            raise StreamEntryError(f"event: {len(entry)} bytes, its header says {_EVENT_HEADER.size + sum(lengths)}")
        ids, offset = [], _EVENT_HEADER.size
        try:
            for length in lengths:
                ids.append(entry[offset : offset + length].decode())
                offset += length
        except UnicodeDecodeError as error:
            raise StreamEntryError(f"event: an id is not UTF-8: {error}") from error
        return cls(
            event_id=ids[0],
            user_id=ids[1],
            item_id=ids[2],
            request_id=ids[3],
            currency=ids[4],
            type=names.EVENT_TYPES[code - 1],
            occurred_at=occurred_at,
            received_at=received_at,
            value=value,
            position=position,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemChange:
    """A new version of an item in the catalogue; it replaces the earlier one as a whole."""

    item_id: str
    changed_at: int
    """When the server accepted it, microseconds since 1970; changes of one call are a microsecond apart. The newest
    change of an item wins, whatever the order of arrival; of two with the same time, the first to arrive."""
    deleted: bool = False
    """True: the item is removed, and the other fields are ignored."""
    available: bool = True
    """False: the item stays in the catalogue but is not recommended."""
    title: str = ""
    description: str = ""
    categories: tuple[str, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)
    """Numbers as text, written as in the item table: "1995" for an integer, "4.5" otherwise."""

    def to_bytes(self) -> bytes:
        """The change as JSON, with its format number."""
        return _to_json({"format": _ITEM_CHANGE_FORMAT, **asdict(self)})

    @classmethod
    def from_bytes(cls, entry: bytes) -> ItemChange:
        """Parses a change. Raises StreamEntryError."""
        return cls._from_dict(_from_json(entry, _ITEM_CHANGE_FORMAT, "item change"))

    @classmethod
    def _from_dict(cls, raw: Mapping[str, Any]) -> ItemChange:
        try:
            change = cls(**{**raw, "categories": tuple(raw["categories"])})
        except (TypeError, KeyError) as error:
            raise StreamEntryError(f"item change: {error}") from error
        texts = (change.item_id, change.title, change.description, *change.categories, *change.attributes.items())
        if not isinstance(change.changed_at, int) or not all(isinstance(text, (str, tuple)) for text in texts):
            raise StreamEntryError("item change: a field has the wrong type")
        return change


@dataclass(frozen=True, kw_only=True, slots=True)
class AppliedItemChange:
    """A change with its number in the order of all changes of the live catalogue."""

    sequence: int
    """Grows with every change, even across a loss of the online store. `Manifest.catalogue_sequence` is that of the
    last change merged into a bundle."""
    slot: int
    """A number unique to the item. It stays the same while the online store keeps the item's `ItemPlace`, so that every
    worker gives the item the same row."""
    change: ItemChange

    def to_bytes(self) -> bytes:
        """The change as JSON, with its format number."""
        raw = {
            "format": _ITEM_CHANGE_FORMAT,
            "sequence": self.sequence,
            "slot": self.slot,
            "change": asdict(self.change),
        }
        return _to_json(raw)

    @classmethod
    def from_bytes(cls, entry: bytes) -> AppliedItemChange:
        """Parses a change. Raises StreamEntryError."""
        raw = _from_json(entry, _ITEM_CHANGE_FORMAT, "applied item change")
        try:
            return cls(
                sequence=int(raw["sequence"]), slot=int(raw["slot"]), change=ItemChange._from_dict(raw["change"])
            )
        except (TypeError, KeyError, ValueError) as error:
            raise StreamEntryError(f"applied item change: {error!r}") from error


def _to_json(raw: Mapping[str, object]) -> bytes:
    return json.dumps(raw, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _from_json(entry: bytes, expected_format: int, what: str) -> dict[str, Any]:
    try:
        raw = json.loads(entry)
    except ValueError as error:
        raise StreamEntryError(f"{what}: not JSON: {error}") from error
    if not isinstance(raw, dict) or raw.pop("format", None) != expected_format:
        raise StreamEntryError(f"{what}: not format {expected_format}")
    return raw


def _describe(entry: bytes) -> str:
    return f"format {entry[0]}" if entry else "an empty entry"
