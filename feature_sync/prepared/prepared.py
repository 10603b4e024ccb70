"""Reads the prepared data that the trainer writes, user by user.

The files may be larger than memory, so they are streamed: interactions are sorted by user, a user's rows may be in
several row groups, and only one batch of rows and the users made from it are in memory at a time.

This is the only module of feature_sync that imports pyarrow.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from feature_sync.core.errors import PreparedDataError
from tandem.contract import names
from tandem.contract.checksums import DamagedFile, check_files
from tandem.contract.deleted_users import NOBODY, DeletedUsers
from tandem.contract.pairs import Entries
from tandem.contract.store import UserState
from tandem.contract.vocabulary import NO_KEYS, Keys, id_keys
from tandem.contract.whole_files import read_whole

_ABOUT: Final = "prepared.json"
_INTERACTIONS: Final = "interactions.parquet"
_USERS: Final = "users.parquet"
_LOW_RATED: Final = "low_rated.parquet"
_INTERACTION_COLUMNS: Final = (names.USER_ID, names.ITEM_ID, names.TIMESTAMP, names.EVENT_TYPE)
_COUNT_COLUMNS: Final = (*names.EVENT_COUNTS, names.LAST_TIMESTAMP)
_ROWS_AT_A_TIME: Final = 65_536


@dataclass(frozen=True, kw_only=True)
class PreparedData:
    """A folder of prepared data, opened but not read."""

    directory: Path
    name: str
    fingerprint: str
    """SHA-256 over the data, hex."""
    num_users: int
    newest_day: str = ""
    """The last day of the archive that the data contain, YYYY-MM-DD; empty: none."""


@dataclass(frozen=True)
class PreparedUser:
    """One user of the data. The state's revision is 0; publishing sets it, depending on the stored state."""

    user_id: str
    state: UserState
    deleted_at: int | None = None
    """The deletion of the user, microseconds since 1970, from before which the state holds nothing; None: never."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing of the user is known: all that the data hold is from before the deletion."""
        return not (len(self.state.seen_item_keys) or self.state.event_counts.any())


_NO_ENTRIES: Final = Entries.of(NO_KEYS, np.empty(0, dtype=np.uint8), np.empty(0, dtype=np.int64))


def open_prepared(directory: Path) -> PreparedData:
    """Opens a folder of prepared data and verifies its files, at the cost of reading them once.

    Data that an earlier trainer prepared have no checksums to compare with.

    Raises PreparedDataError.
    """
    try:
        about = json.loads(read_whole(directory / _ABOUT))
        name, fingerprint = str(about["name"]), str(about["fingerprint"])
        newest_day = str(about.get("newest_day", ""))
        checksums = {str(file): str(checksum) for file, checksum in about.get("files", {}).items()}
    except OSError as error:
        raise PreparedDataError(f"{directory} is not prepared data ({_ABOUT}: {error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PreparedDataError(f"{directory} is not prepared data ({_ABOUT}: {error!r})") from error
    try:
        check_files(directory, checksums)
    except DamagedFile as error:
        raise PreparedDataError(f"{error}; have the trainer prepare the data again") from error
    with _open(directory / _USERS, (names.USER_ID,)) as users:
        return PreparedData(
            directory=directory,
            name=name,
            fingerprint=fingerprint,
            num_users=users.metadata.num_rows,
            newest_day=newest_day,
        )


def read_users(
    prepared: PreparedData, batch_users: int, *, deleted: DeletedUsers = NOBODY
) -> Iterator[list[PreparedUser]]:
    """All users in the order of their ids, `batch_users` at a time, those who only rated low included.

    Of `deleted` users only the events after the deletion are read: low ratings and features have no times. Raises
    PreparedDataError.
    """
    users = _users(prepared.directory, deleted)
    while batch := list(islice(users, batch_users)):
        yield batch


def sample_user_ids(prepared: PreparedData, count: int, *, deleted: DeletedUsers = NOBODY) -> list[str]:
    """At most `count` user ids from the beginning, the middle and the end of the users, without `deleted` users.

    Raises PreparedDataError.
    """
    with _open(prepared.directory / _USERS, (names.USER_ID,)) as users:
        groups = users.num_row_groups
        chosen = sorted({0, groups // 2, groups - 1}) if groups else []
        ids = users.read_row_groups(chosen, columns=[names.USER_ID]).column(names.USER_ID)
        step = max(1, len(ids) // count)
        sampled = [ids[row].as_py() for row in range(0, len(ids), step)][:count]
    left_out = deleted.among(sampled)
    return [user_id for user_id in sampled if user_id not in left_out]


def _users(directory: Path, deleted: DeletedUsers) -> Iterator[PreparedUser]:
    """Joins the files, all of which are sorted by user. Users who only rated low have a state without events."""
    features = _features_by_user(directory)
    feature_user, feature_values = next(features, (None, {}))
    for user_id, events, low_rated_keys in _seen_by_user(directory):
        while feature_user is not None and feature_user < user_id:
            feature_user, feature_values = next(features, (None, {}))
        deleted_at = deleted.deleted_at(user_id)
        if deleted_at is not None:
            events, low_rated_keys = _after(events, deleted_at), NO_KEYS
        state = UserState.from_entries(
            events,
            features=feature_values if feature_user == user_id and deleted_at is None else {},
            revision=0,
            low_rated_keys=low_rated_keys,
        )
        yield PreparedUser(user_id, state, deleted_at)


def _after(events: Entries, moment: int) -> Entries:
    """The events of known times after a moment, in microseconds, without those that they stand for: some may be from
    before."""
    kept = events.times > moment
    return Entries.of(events.item_keys[kept], events.codes[kept], events.times[kept])


def _seen_by_user(directory: Path) -> Iterator[tuple[str, Entries, Keys]]:
    """Each user's events, and the keys of the items that the user rated too low for a choice."""
    low_rated = _low_rated_by_user(directory)
    low_user, low_keys = next(low_rated, (None, NO_KEYS))
    for user_id, events in _events_by_user(directory):
        while low_user is not None and low_user < user_id:
            yield low_user, _NO_ENTRIES, low_keys
            low_user, low_keys = next(low_rated, (None, NO_KEYS))
        if low_user == user_id:
            yield user_id, events, low_keys
            low_user, low_keys = next(low_rated, (None, NO_KEYS))
        else:
            yield user_id, events, NO_KEYS
    if low_user is not None:
        yield low_user, _NO_ENTRIES, low_keys
        yield from ((user_id, _NO_ENTRIES, keys) for user_id, keys in low_rated)


def _low_rated_by_user(directory: Path) -> Iterator[tuple[str, Keys]]:
    """(user, (n,) uint64); nothing where an earlier trainer prepared the data, which dropped low ratings."""
    if not (directory / _LOW_RATED).is_file():
        return
    with _open(directory / _LOW_RATED, (names.USER_ID, names.ITEM_ID)) as low_rated:
        pairs = (
            pair
            for batch in _batches(low_rated, (names.USER_ID, names.ITEM_ID))
            for pair in zip(
                batch.column(names.USER_ID).to_pylist(), batch.column(names.ITEM_ID).to_pylist(), strict=True
            )
        )
        for user_id, of_user in groupby(pairs, key=itemgetter(0)):
            yield user_id, id_keys(item_id for _, item_id in of_user)


def _events_by_user(directory: Path) -> Iterator[tuple[str, Entries]]:
    current: str | None = None
    pieces: list[Entries] = []
    with _open(directory / _INTERACTIONS, _INTERACTION_COLUMNS) as interactions:
        # Data that an earlier trainer prepared have only the first event of a user with an item, and no counts.
        has_counts = set(_COUNT_COLUMNS) <= set(interactions.schema_arrow.names)
        for batch in _batches(interactions, _INTERACTION_COLUMNS + (_COUNT_COLUMNS if has_counts else ())):
            events = _decode_events(batch)
            runs = pc.run_end_encode(batch.column(names.USER_ID))
            start = 0
            for user_id, end in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
                if user_id != current:
                    if current is not None:
                        yield current, _join(pieces)
                        if user_id is None or user_id < current:
                            raise PreparedDataError(
                                f"{_INTERACTIONS} is not sorted by user: {user_id!r} after {current!r}"
                            )
                    current, pieces = user_id, []
                pieces.append(events[start:end])
                start = end
    if current is not None:
        yield current, _join(pieces)


def _features_by_user(directory: Path) -> Iterator[tuple[str, Mapping[str, str]]]:
    with _open(directory / _USERS, (names.USER_ID,)) as users:
        for batch in _batches(users, tuple(users.schema_arrow.names)):
            for row in batch.to_pylist():
                user_id = row.pop(names.USER_ID)
                yield user_id, {name: value for name, value in row.items() if value is not None}


def _decode_events(batch: pa.RecordBatch) -> Entries:
    # Hashing an id costs far more than a lookup, and ids repeat: only the batch's distinct ids are hashed.
    items = batch.column(names.ITEM_ID).dictionary_encode()
    item_keys = id_keys(items.dictionary.to_pylist())[items.indices.to_numpy()]
    types = batch.column(names.EVENT_TYPE).dictionary_encode()
    type_names = types.dictionary.to_pylist()
    if unknown := [name for name in type_names if name not in names.EVENT_CODES]:
        raise PreparedDataError(f"{_INTERACTIONS}: unknown event types {unknown}")
    codes = np.array([names.EVENT_CODES[name] for name in type_names], dtype=np.uint8)[types.indices.to_numpy()]
    times = batch.column(names.TIMESTAMP).to_numpy().astype(np.int64, copy=False)
    if not set(_COUNT_COLUMNS) <= set(batch.schema.names):
        return Entries.of(item_keys, codes, times)
    counts = np.stack([batch.column(name).to_numpy() for name in names.EVENT_COUNTS], axis=1)
    return Entries(item_keys, codes, times, counts, batch.column(names.LAST_TIMESTAMP).to_numpy())


def _join(pieces: list[Entries]) -> Entries:
    return pieces[0] if len(pieces) == 1 else Entries.joined(pieces)


def _open(path: Path, columns: tuple[str, ...]) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise PreparedDataError(f"{path} is unreadable: {error}") from error
    if missing := sorted(set(columns) - set(file.schema_arrow.names)):
        file.close()
        raise PreparedDataError(f"{path} lacks the columns {', '.join(missing)}")
    return file


def _batches(file: pq.ParquetFile, columns: tuple[str, ...]) -> Iterator[pa.RecordBatch]:
    try:
        yield from file.iter_batches(batch_size=_ROWS_AT_A_TIME, columns=list(columns))
    except (OSError, pa.ArrowException) as error:
        raise PreparedDataError(f"prepared data are damaged: {error}") from error
