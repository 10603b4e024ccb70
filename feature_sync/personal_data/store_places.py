"""The places in the online store and in the store of the streams: state, vectors, entries that wait, that were applied,
and that could not be applied."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from feature_sync.operations.show_user import item_names, state_summary
from feature_sync.personal_data.place import Record, Subject
from feature_sync.store.connection import StoreConnection
from feature_sync.store.owned_entries import owned_entry
from tandem.contract.bundle import Bundle
from tandem.contract.errors import StoreValueError, StreamEntryError
from tandem.contract.store import UserState, UserVector, user_id_of_vector_key, user_state_key, user_vector_key
from tandem.contract.streams import (
    CONSUMER_GROUP,
    DEAD_REASON_FIELD,
    ENTRY_FIELD,
    EVENTS,
    applied_key,
    dead_letters_key,
    stream_key,
)

_KEYS_AT_ONCE: Final = 1_000
_ENTRIES_AT_ONCE: Final = 1_000
_PATTERN_CHARACTERS: Final = re.compile(rb"[*?\[\]\\^]")
MIN_SEARCHED_BYTES: Final = 4
"""Shortest id that is looked for in the bytes of an unreadable entry: most entries contain a shorter one by chance."""


class UserKeys:
    """State and vectors, under every model version, not only the live ones."""

    name = "online_store"

    def __init__(self, store: StoreConnection, bundle: Callable[[], Bundle | None]) -> None:
        """`bundle` names the items of a state."""
        self.where = f"{store.name}: tandem/1/state/USER_ID, tandem/1/vector/MODEL_VERSION/USER_ID"
        self._store = store
        self._bundle = bundle

    def find(self, user: Subject) -> Sequence[Record]:
        """The decoded values. See `Place`."""
        keys = self._keys(user.user_id)
        values = self._store.call("MGET", *keys)
        found = ((key, value) for key, value in zip(keys, values, strict=True) if value is not None)
        return [
            {"key": key.decode(errors="replace"), **self._decoded(key, value, user.user_id)} for key, value in found
        ]

    def erase(self, user: Subject) -> int:
        """See `Place`. The state is first: whoever is about to write a vector of it begins anew, and finds none."""
        num_removed = int(self._store.call("DEL", user_state_key(user.user_id)))
        vectors = self._vector_keys(user.user_id)
        return num_removed + (int(self._store.call("DEL", *vectors)) if vectors else 0)

    def _keys(self, user_id: str) -> list[bytes]:
        return [user_state_key(user_id), *self._vector_keys(user_id)]

    def _vector_keys(self, user_id: str) -> list[bytes]:
        pattern = user_vector_key("*", "") + _PATTERN_CHARACTERS.sub(rb"\\\g<0>", user_id.encode())
        keys, cursor = set[bytes](), b"0"
        while True:
            cursor, found = self._store.call("SCAN", cursor, "MATCH", pattern, "COUNT", _KEYS_AT_ONCE)
            # The pattern's asterisk also matches slashes: vectors of the user "x/USER_ID" are found too.
            keys.update(key for key in found if user_id_of_vector_key(key) == user_id.encode())
            if cursor == b"0":
                return sorted(keys)

    def _decoded(self, key: bytes, value: bytes, user_id: str) -> Record:
        try:
            if key == user_state_key(user_id):
                state = UserState.from_bytes(value)
                seen = item_names(state.seen_item_keys, self._bundle())
                return {"state": {**state_summary(state, self._bundle()), "seen_items": seen}}
            vector = UserVector.from_bytes(value)
            return {"vector": {"state_revision": vector.state_revision, "values": vector.values.tolist()}}
        except StoreValueError as error:
            return {"unreadable": str(error), "bytes": value.hex()}


@dataclass(frozen=True)
class _Entry:
    position: bytes
    record: Record


class StreamEntries:
    """Entries of one Redis stream of EVENTS or IMPRESSIONS; a subclass says which are a user's, and how they are
    removed."""

    def __init__(self, store: StoreConnection, stream: str, key: bytes, name: str) -> None:
        self.name = name
        self.where = f"{store.name}: {key.decode()}"
        self.key = key
        self.stream = stream
        self._store = store

    def find(self, user: Subject) -> Sequence[Record]:
        """See `Place`."""
        return [entry.record for entry in self._entries(user)]

    def erase(self, user: Subject) -> int:
        """See `Place`."""
        positions = [entry.position for entry in self._entries(user)]
        num_removed = 0
        for start in range(0, len(positions), _ENTRIES_AT_ONCE):
            num_removed += self._remove(positions[start : start + _ENTRIES_AT_ONCE])
        return num_removed

    def _remove(self, positions: Sequence[bytes]) -> int:
        return int(self._store.call("XDEL", self.key, *positions))

    def _entries(self, user: Subject) -> Iterator[_Entry]:
        start = "-"
        while page := self._store.call("XRANGE", self.key, start, "+", "COUNT", _ENTRIES_AT_ONCE):
            for position, fields in page:
                values = dict(zip(fields[::2], fields[1::2], strict=True))
                record = self._record(values.get(ENTRY_FIELD, b""), values, user)
                if record is not None:
                    yield _Entry(position, {"position": position.decode(), **record})
            start = f"({page[-1][0].decode()}"

    def _record(self, payload: bytes, values: dict[bytes, bytes], user: Subject) -> Record | None:  # noqa: ARG002
        """The entry as a record; None if it is not the user's."""
        try:
            return self._meant(payload, user)
        except StreamEntryError:
            return None

    def _meant(self, payload: bytes, user: Subject) -> Record | None:
        """The entry, if it is the user's and meant. Raises StreamEntryError."""
        entry = owned_entry(self.stream, payload)
        is_meant = entry.user_id == user.user_id and entry.is_left_out(user.until)
        return entry.to_dict() if is_meant else None


class WaitingEntries(StreamEntries):
    """Entries that were recorded and are not applied yet, pending ones included."""

    def __init__(self, store: StoreConnection, stream: str) -> None:
        super().__init__(store, stream, stream_key(stream), "event_stream" if stream == EVENTS else "impression_stream")

    def _remove(self, positions: Sequence[bytes]) -> int:
        # What a consumer has read already, it applies no more: the register names the user.
        has_stream = self._store.call("EXISTS", self.key)
        groups = self._store.call("XINFO", "GROUPS", self.key) if has_stream else []
        commands: list[tuple[Any, ...]] = [("XDEL", self.key, *positions)]
        if any(CONSUMER_GROUP.encode() in group for group in groups):
            commands.append(("XACK", self.key, CONSUMER_GROUP, *positions))
        return int(self._store.transaction(commands)[0])


class AppliedEntries(StreamEntries):
    """Entries that were applied and are in no file of the archive yet."""

    def __init__(self, store: StoreConnection, stream: str) -> None:
        super().__init__(
            store, stream, applied_key(stream), "applied_log" if stream == EVENTS else "applied_impressions"
        )


class DeadLetterEntries(StreamEntries):
    """Entries that could not be applied. One that cannot be read is the user's if its bytes hold the id, unless the id
    is too short for that to mean anything."""

    def __init__(self, store: StoreConnection, stream: str) -> None:
        name = "dead_letters" if stream == EVENTS else "dead_impressions"
        super().__init__(store, stream, dead_letters_key(stream), name)

    def _record(self, payload: bytes, values: dict[bytes, bytes], user: Subject) -> Record | None:
        reason = values.get(DEAD_REASON_FIELD, b"").decode(errors="replace")
        try:
            entry = self._meant(payload, user)
        except StreamEntryError:
            searched = user.user_id.encode()
            if len(searched) < MIN_SEARCHED_BYTES or searched not in payload:
                return None
            return {"reason": reason, "unreadable_bytes": payload.hex()}
        return None if entry is None else {"reason": reason, **entry}
