"""Lists, replays and drops dead letters.

Replaying does not use the stream: an entry is applied here, and leaves the dead letters in the transaction that applies
it. So it works for every kind of stream, takes effect once, and reports at once what is still wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from feature_sync.bundles.live_bundles import LiveBundles
from feature_sync.core.errors import StoreConflict, Unavailable
from feature_sync.core.settings import Settings
from feature_sync.events.applier_factory import event_applier
from feature_sync.events.event_rule import ServedEventRule
from feature_sync.events.impression_applier import ImpressionApplier
from feature_sync.items.applier import ItemChangeApplier
from feature_sync.items.numbering import Numbering
from feature_sync.store.connection import StoreConnection
from feature_sync.stream.consumer import Applier, Parsed
from feature_sync.telemetry.metrics import Metrics
from tandem.contract.streams import DEAD_REASON_FIELD, ENTRY_FIELD, EVENTS, IMPRESSIONS, ITEM_CHANGES, dead_letters_key

_PAGE_ENTRIES: Final = 500


@dataclass(frozen=True, kw_only=True)
class _DeadLetter:
    position: bytes
    payload: bytes
    reason: str

    @property
    def buried_at(self) -> str:
        return datetime.fromtimestamp(int(self.position.partition(b"-")[0]) / 1000, UTC).isoformat()


def list_dead_letters(settings: Settings, stream: str, *, limit: int) -> dict[str, object]:
    """The newest dead letters of a stream, decoded if possible. Raises StoreError."""
    with StoreConnection(settings.store_url) as store:
        applier = _applier(settings, store, stream)
        key = dead_letters_key(stream)
        total, newest = store.run([("XLEN", key), ("XREVRANGE", key, "+", "-", "COUNT", limit)])
        letters = [_letter(position, fields) for position, fields in newest]
        return {
            "stream": stream,
            "num_dead_letters": total,
            "newest_first": [
                {
                    "position": letter.position.decode(),
                    "buried_at": letter.buried_at,
                    "reason": letter.reason,
                    "entry": _decoded(applier, letter.payload),
                }
                for letter in letters
            ],
        }


def replay_dead_letters(settings: Settings, stream: str) -> dict[str, object]:
    """Applies every dead letter that can be applied now and keeps the rest. Raises StoreError."""
    num_applied, reasons = 0, dict[str, str]()
    with StoreConnection(settings.store_url) as store:
        applier = _applier(settings, store, stream)
        for letter in _letters(store, stream):
            try:
                _apply(applier, letter, stream)
            except Unavailable:
                raise
            except Exception as error:  # any exception is the reason why the letter stays
                reasons[letter.position.decode()] = f"{type(error).__name__}: {error}"
            else:
                num_applied += 1
    return {"stream": stream, "num_applied": num_applied, "num_left": len(reasons), "left_because": reasons}


def drop_dead_letters(settings: Settings, stream: str) -> dict[str, object]:
    """Removes all dead letters of a stream. Raises StoreError."""
    key = dead_letters_key(stream)
    with StoreConnection(settings.store_url) as store:
        num_dropped, _ = store.transaction([("XLEN", key), ("DEL", key)])
    return {"stream": stream, "num_dropped": num_dropped}


def _applier(settings: Settings, store: StoreConnection, stream: str) -> Applier[Any]:
    metrics = Metrics().of_stream(stream)
    if stream == EVENTS:
        bundles = LiveBundles(settings, on_change=lambda: None)
        bundles.poll()
        return event_applier(settings, store, metrics, event_rule=ServedEventRule(settings, bundles))
    if stream == IMPRESSIONS:
        return ImpressionApplier(store, metrics=metrics)
    # The bundles are not read: a store that has lost the counter has no dead letters either.
    numbering = Numbering(settings.data_dir / ITEM_CHANGES, lambda: 0)
    return ItemChangeApplier(store, numbering=numbering, metrics=metrics, on_applied=lambda: None)


def _apply(applier: Applier[Any], letter: _DeadLetter, stream: str) -> None:
    parsed = Parsed(payload=letter.payload, value=applier.parse(letter.payload))
    while True:
        try:
            applier.apply([parsed], [("XDEL", dead_letters_key(stream), letter.position)])
            return
        except StoreConflict:
            continue


def _letters(store: StoreConnection, stream: str) -> Iterator[_DeadLetter]:
    """The dead letters that exist now, oldest first."""
    start = "-"
    while page := store.call("XRANGE", dead_letters_key(stream), start, "+", "COUNT", _PAGE_ENTRIES):
        yield from (_letter(position, fields) for position, fields in page)
        start = f"({page[-1][0].decode()}"


def _letter(position: bytes, fields: list[bytes]) -> _DeadLetter:
    by_name = dict(zip(fields[::2], fields[1::2], strict=True))
    return _DeadLetter(
        position=position,
        payload=by_name.get(ENTRY_FIELD, b""),
        reason=by_name.get(DEAD_REASON_FIELD, b"").decode(errors="replace"),
    )


def _decoded(applier: Applier[Any], payload: bytes) -> str:
    try:
        return str(applier.parse(payload))
    except Exception:  # this may be why the entry is a dead letter
        return payload.hex()
