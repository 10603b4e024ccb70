"""Publishing: the state of every user of the prepared data, and their vectors under one bundle, into the online store.

It also makes the vectors of items that changed since that bundle was trained, so that none is missing when it serves.

Read `publish` downwards. It can be stopped at any moment and run again: values that are already right in the store are
left alone, and only a complete run sets the mark that lets the next run return at once.

| stored state                                 | state                                    | vector               |
| -------------------------------------------- | ---------------------------------------- | -------------------- |
| none, or unreadable                          | written, revision 1                      | written              |
| the same, counts aside                       | kept                                     | written, if stale    |
| other, its newest event not after the file's | the file's, revision = stored one + 1    | written              |
| it has events after the file's newest        | the file's and these: they arrived since | written, if stale    |

Counts are the higher of the two: the file has no impressions and no repetitions, and the store may have less history.
Items that the stored state has as seen, but not in its history, stay seen: they were rated low, or their events are
older than a state keeps. A user without history, who only rated low, gets a state and no vector. A user to whom other
writers write often is published in a smaller batch, see `_publish_batch`. Of a deleted user only what came after the
deletion is published, also if the user is deleted meanwhile.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import structlog
from tqdm import tqdm

from feature_sync.bundles.checked import open_checked
from feature_sync.bundles.registry import (
    BUNDLE_CACHE,
    fetch_bundle,
    find_version,
    live_names,
    model_version_of,
    open_registry,
    remember_champion,
)
from feature_sync.core.errors import RegistryError, StoreConflict, StoreError
from feature_sync.core.settings import Settings
from feature_sync.items.publish import publish_item_vectors
from feature_sync.prepared.prepared import PreparedData, PreparedUser, open_prepared, read_users, sample_user_ids
from feature_sync.store.connection import StoreConnection
from feature_sync.store.deleted_users import agree
from feature_sync.store.online_store import OnlineStore, StoredUser, UserWrite
from feature_sync.store.served_models import further_models
from feature_sync.towers.user_tower import UserTower
from tandem.contract import names
from tandem.contract.bundle import Bundle
from tandem.contract.errors import BundleError, StoreValueError
from tandem.contract.event_rule import EventRule
from tandem.contract.manifest import Manifest
from tandem.contract.pairs import Entries
from tandem.contract.store import UserState, UserVector
from tandem.contract.vocabulary import Keys
from tandem.ops.model_registry import ModelRegistry, RegisteredVersion
from tandem.ops.settings_types import split_names

_BATCH_USERS: Final = 512
_SAMPLED_USERS: Final = 64

_Merge = Callable[[UserState, UserState, npt.NDArray[np.bool_], EventRule], UserState]

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class PublishReport:
    """The effects of a publish."""

    model_version: str
    registry_version: str
    """Empty if the bundle was given as a folder."""
    fingerprint: str
    already_published: bool = False
    num_users: int = 0
    num_users_deleted: int = 0
    """Users of whom nothing is published, because the data hold nothing from after their deletion."""
    num_states_written: int = 0
    num_states_newer_in_store: int = 0
    num_vectors_written: int = 0
    num_item_vectors_written: int = 0
    """Vectors of items that changed since the bundle was trained."""
    further: tuple[PublishReport, ...] = ()
    """The same for each further model that could be published."""


@dataclass(frozen=True, kw_only=True)
class _Source:
    """The bundle to publish for. Its name is known at once; it is opened only if there is work to do."""

    model_version: str
    registry_version: str
    open_bundle: Callable[[], Bundle]
    """Opens it once, with its check in a child process; returns the same one afterwards."""


@dataclass(frozen=True, kw_only=True)
class _Decision:
    """The decision about one user, see the table above."""

    state: UserState
    write_state: bool
    write_vector: bool
    newer_in_store: bool = False
    is_deleted: bool = False
    """Nothing is left to publish, see `PublishReport.num_users_deleted`."""


class History(Protocol):
    """What is known of users beside the prepared data."""

    def follow(self, manifest: Manifest) -> None:
        """Takes over the rules by which the model was trained; called first."""
        ...

    def further_users(self, prepared_ids: Iterable[str]) -> Sequence[PreparedUser]:
        """The users that the prepared data lack."""
        ...

    def states(self, users: Sequence[PreparedUser]) -> Sequence[UserState]:
        """The users' states with all that is known now, which includes every event that the store holds already."""
        ...


def publish(
    settings: Settings,
    prepared_dir: Path,
    *,
    bundle_dir: Path | None = None,
    force: bool = False,
    history: History | None = None,
) -> PublishReport:
    """Publishes prepared data under the bundle in `bundle_dir`, or under the one that the registry's alias names, and
    then under the further models that the settings and the servers name. One of those that cannot be published is
    logged and left out.

    Returns at once if the same data were published for the same version and the store still holds them; `force` checks
    every user nevertheless. With `history` each user's state is made of the prepared data and the history, and what the
    store holds beyond them is kept. Raises FeatureSyncError or BundleError.
    """
    prepared = open_prepared(prepared_dir)
    if bundle_dir:
        return _publish_under(_folder_source(bundle_dir, settings), prepared, settings, force=force, history=history)
    registry = open_registry(settings)
    names_beside = _names_beside(settings)
    num_live = len({settings.model_alias, *live_names(names_beside)})
    own = _registry_source(registry, find_version(registry, settings.model_alias), settings, num_live=num_live)
    report = _publish_under(own, prepared, settings, force=force, history=history)
    if settings.model_alias == names.CHAMPION:
        remember_champion(settings.data_dir / BUNDLE_CACHE, own.model_version)
    further: list[PublishReport] = []
    for name in names_beside:
        try:
            source = _registry_source(registry, find_version(registry, name), settings, num_live=num_live)
            if source.model_version not in {done.model_version for done in (report, *further)}:
                further.append(_publish_under(source, prepared, settings, force=force, states_of=own))
        except (RegistryError, BundleError) as error:
            _log.warning("further_model_not_published", alias=name, error=str(error))
    return dataclasses.replace(report, further=tuple(further))


def _names_beside(settings: Settings) -> tuple[str, ...]:
    """The further models that the settings and the servers name; those of the settings if the store does not tell the
    others: its user may not be allowed to read them."""
    try:
        with StoreConnection(settings.store_url) as connection:
            return further_models(settings, connection)
    except StoreError as error:
        _log.warning("models_of_servers_unknown", error=str(error), effect="the models of the settings are published")
        return split_names(settings.further_models)


def _publish_under(
    source: _Source,
    prepared: PreparedData,
    settings: Settings,
    *,
    force: bool,
    history: History | None = None,
    states_of: _Source | None = None,
) -> PublishReport:
    """Publishes under one bundle. States follow the rules of the bundle `states_of`; None: of the same."""
    report = PublishReport(
        model_version=source.model_version, registry_version=source.registry_version, fingerprint=prepared.fingerprint
    )
    with OnlineStore(
        settings.store_url,
        retry_seconds=settings.store_retry_seconds,
        vector_ttl_seconds=settings.vector_ttl_seconds,
    ) as store:
        with StoreConnection(settings.store_url) as connection:
            deleted = agree(connection, settings.data_dir)
        sampled = sample_user_ids(prepared, _SAMPLED_USERS, deleted=deleted)
        if not force and history is None and store.is_published(report.model_version, report.fingerprint, sampled):
            _log.info("already_published", model_version=report.model_version, fingerprint=report.fingerprint)
            return _with_items(settings, source, dataclasses.replace(report, already_published=True))
        started = time.monotonic()
        bundle = source.open_bundle()
        if history is not None:
            history.follow(bundle.manifest)
        rule = EventRule.of((bundle if states_of is None else states_of.open_bundle()).manifest)
        tower = UserTower(bundle)
        with tqdm(
            total=prepared.num_users,
            desc="publish",
            unit="user",
            # A terminal gets a progress bar; a log file gets an occasional line.
            mininterval=0.1 if sys.stderr.isatty() else 5.0,
        ) as progress:
            for users in _with_history(read_users(prepared, _BATCH_USERS, deleted=deleted), history):
                report = _publish_batch(users, store=store, tower=tower, rule=rule, report=report, history=history)
                progress.update(len(users))
        report = _with_items(settings, source, report)
        store.mark_published(report.model_version, report.fingerprint)
    _log.info("published", **dataclasses.asdict(report), seconds=round(time.monotonic() - started, 3))
    return report


def _folder_source(directory: Path, settings: Settings) -> _Source:
    bundle = open_checked(directory, settings)
    return _Source(model_version=bundle.manifest.model_version, registry_version="", open_bundle=lambda: bundle)


def _registry_source(
    registry: ModelRegistry, version: RegisteredVersion, settings: Settings, *, num_live: int
) -> _Source:
    return _Source(
        model_version=model_version_of(version),
        registry_version=version.number,
        open_bundle=functools.cache(lambda: fetch_bundle(registry, version, settings, num_live=num_live)),
    )


def _with_items(settings: Settings, source: _Source, report: PublishReport) -> PublishReport:
    num_vectors = publish_item_vectors(settings, report.model_version, source.open_bundle)
    return dataclasses.replace(report, num_item_vectors_written=num_vectors)


def _with_history(batches: Iterator[list[PreparedUser]], history: History | None) -> Iterator[Sequence[PreparedUser]]:
    prepared_ids: set[str] = set()
    for users in batches:
        if history is not None:
            prepared_ids.update(user.user_id for user in users)
        yield users
    if history is not None:
        further = history.further_users(prepared_ids)
        yield from (further[start : start + _BATCH_USERS] for start in range(0, len(further), _BATCH_USERS))


def _publish_batch(
    users: Sequence[PreparedUser],
    *,
    store: OnlineStore,
    tower: UserTower,
    rule: EventRule,
    report: PublishReport,
    history: History | None = None,
) -> PublishReport:
    decisions: list[_Decision] = []

    def decide(stored: Sequence[StoredUser]) -> list[UserWrite]:
        # Called while the states are watched: the history is read after them, so it lacks no event that they hold.
        known = [_known_after_deletion(user, held) for user, held in zip(users, stored, strict=True)]
        states = [user.state for user in known] if history is None else history.states(known)
        merge = _merged if history is None else _united
        decisions[:] = [
            _decide_deleted(held) if _is_deleted(user, state) else _decide(state, held, merge, rule)
            for user, state, held in zip(known, states, stored, strict=True)
        ]
        stale = [number for number, decision in enumerate(decisions) if decision.write_vector]
        vectors = tower.vectors([users[n].user_id for n in stale], [decisions[n].state for n in stale])
        new_vectors = {
            number: UserVector(decisions[number].state.revision, values)
            for number, values in zip(stale, vectors, strict=True)
        }
        return [
            UserWrite(state=decision.state if decision.write_state else None, vector=new_vectors.get(number))
            for number, decision in enumerate(decisions)
        ]

    try:
        store.update_users([user.user_id for user in users], report.model_version, decide)
    except StoreConflict:
        if len(users) == 1:
            raise
        # Events keep arriving for some of the users: a smaller batch takes less time and conflicts less often.
        middle = len(users) // 2
        for part in (users[:middle], users[middle:]):
            report = _publish_batch(part, store=store, tower=tower, rule=rule, report=report, history=history)
        return report
    return dataclasses.replace(
        report,
        num_users=report.num_users + len(users),
        num_users_deleted=report.num_users_deleted + sum(d.is_deleted for d in decisions),
        num_states_written=report.num_states_written + sum(d.write_state for d in decisions),
        num_states_newer_in_store=report.num_states_newer_in_store + sum(d.newer_in_store for d in decisions),
        num_vectors_written=report.num_vectors_written + sum(d.write_vector for d in decisions),
    )


def _known_after_deletion(user: PreparedUser, held: StoredUser) -> PreparedUser:
    """What is known of a user; nothing where the user was deleted after the data were read."""
    if held.deleted_at is None or held.deleted_at == user.deleted_at:
        return user
    return PreparedUser(user.user_id, UserState(), held.deleted_at)


def _is_deleted(user: PreparedUser, state: UserState) -> bool:
    return user.deleted_at is not None and dataclasses.replace(user, state=state).is_empty


def _decide_deleted(held: StoredUser) -> _Decision:
    """What the store holds of a deleted user arrived after the deletion, and stays."""
    return _Decision(state=_readable_state(held) or UserState(), write_state=False, write_vector=False, is_deleted=True)


def _decide(from_file: UserState, held: StoredUser, merge: _Merge, rule: EventRule) -> _Decision:
    stored = _readable_state(held)
    if stored is None:
        # A vector that outlived its state may also have revision 1, but of another state: it is never trusted.
        return _Decision(
            state=dataclasses.replace(from_file, revision=1), write_state=True, write_vector=_has_history(from_file)
        )
    newer = _arrived_since(stored, from_file)
    state = merge(from_file, stored, newer, rule)
    is_kept = state.to_bytes() == stored.to_bytes()
    return _Decision(
        state=state if is_kept else dataclasses.replace(state, revision=stored.revision + 1),
        write_state=not is_kept,
        write_vector=_has_history(state) and (not is_kept or not _is_vector_of(held, stored)),
        newer_in_store=bool(newer.any()),
    )


def _has_history(state: UserState) -> bool:
    return len(state.event_item_keys) > 0


def _arrived_since(stored: UserState, from_file: UserState) -> npt.NDArray[np.bool_]:
    """Mask of the stored events, (n,) bool, that came after those of the file."""
    newest = int(from_file.event_times[-1]) if len(from_file.event_times) else 0
    if newest == 0 and not (stored.event_times == 0).any():
        # The data have no times, and other data wrote the state: which events are newer is unknown.
        return np.zeros(len(stored.event_times), dtype=np.bool_)
    return stored.event_times > newest


def _merged(from_file: UserState, stored: UserState, newer: npt.NDArray[np.bool_], rule: EventRule) -> UserState:
    """The file's state with the events that arrived since, under the stored revision."""
    state = dataclasses.replace(
        from_file,
        revision=stored.revision,
        event_counts=np.maximum(from_file.event_counts, stored.event_counts),
        seen_item_keys=np.union1d(
            from_file.seen_item_keys, np.setdiff1d(stored.seen_item_keys, stored.event_item_keys)
        ),
    )
    if newer.any():
        state = dataclasses.replace(state, seen_item_keys=np.union1d(from_file.seen_item_keys, stored.seen_item_keys))
    return _with_entries_of(state, stored, newer, from_file.seen_item_keys, rule)


def _united(rebuilt: UserState, stored: UserState, _: npt.NDArray[np.bool_], rule: EventRule) -> UserState:
    """The rebuilt state with everything else that the stored one holds, under the stored revision."""
    state = dataclasses.replace(
        rebuilt,
        revision=stored.revision,
        seen_item_keys=np.union1d(rebuilt.seen_item_keys, stored.seen_item_keys),
        features=rebuilt.features or stored.features,
        event_counts=np.maximum(rebuilt.event_counts, stored.event_counts),
    )
    everything = np.ones(len(stored.event_item_keys), dtype=np.bool_)
    return _with_entries_of(state, stored, everything, rebuilt.seen_item_keys, rule)


def _with_entries_of(
    state: UserState, stored: UserState, offered: npt.NDArray[np.bool_], seen_before: Keys, rule: EventRule
) -> UserState:
    """The state with those stored events of `offered`, (n,) bool, that it lacks.

    It lacks an event of an item that is not in `seen_before`, and, by a rule with strengths, a stronger one than its
    own of an item in its history. Both records of an item count the same events, so the higher counts are right.
    """
    if not offered.any() and not (rule.event_weights and len(stored.merged)):
        return state
    entries, held = state.entries, stored.entries
    added = held[offered & ~np.isin(held.item_keys, seen_before)]
    strengths = rule.strengths
    if strengths is not None:
        both = entries.with_counts_of(held)
        again = held[offered & np.isin(held.item_keys, entries.item_keys)]
        entries = Entries.joined((both, added, again)).one_of_each_item(strengths, same_events=True)
    elif len(added):
        entries = Entries.joined((entries, added))
        entries = entries[np.argsort(entries.times, kind="stable")]
    return state.with_entries(entries)


def _readable_state(held: StoredUser) -> UserState | None:
    if held.state is None:
        return None
    try:
        return UserState.from_bytes(held.state)
    except StoreValueError as error:
        _log.warning("unreadable_state_replaced", error=str(error))
        return None


def _is_vector_of(held: StoredUser, state: UserState) -> bool:
    if held.vector is None:
        return False
    try:
        return UserVector.from_bytes(held.vector).state_revision == state.revision
    except StoreValueError:
        return False
