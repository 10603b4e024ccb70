"""All places in which Tandem keeps something of a user, and what it keeps elsewhere, out of this program's reach."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from feature_sync.attribution.question import REPORT
from feature_sync.bundles.checked import open_checked
from feature_sync.core.settings import Settings
from feature_sync.operations.show_user import served_bundle
from feature_sync.personal_data.bundle_places import BundleFolders, RegistryVersions
from feature_sync.personal_data.feature_places import FeatureKeys, FeatureSources
from feature_sync.personal_data.file_places import PREPARED, Archive, AttributionReport, ImpressionLogs, PreparedFolders
from feature_sync.personal_data.place import Place
from feature_sync.personal_data.store_places import (
    MIN_SEARCHED_BYTES,
    AppliedEntries,
    DeadLetterEntries,
    UserKeys,
    WaitingEntries,
)
from feature_sync.store.connection import StoreConnection
from feature_sync.store.owned_entries import OWNED_STREAMS
from feature_sync.stream.source_factory import is_kafka
from tandem.contract.bundle import Bundle
from tandem.contract.streams import kafka_topic


@dataclass(frozen=True, kw_only=True)
class Remains:
    """What no command erases."""

    what: str
    until: str
    """Until when it stays, and what ends it sooner."""


@contextmanager
def all_places(settings: Settings, store: StoreConnection, *, names_items: bool) -> Iterator[Sequence[Place]]:
    """The places, in the order in which they are erased: first those from which data move on.

    With `names_items` items of a state have their ids, for which the served bundle is opened.
    """
    bundle = functools.cache(lambda: _bundle(settings) if names_items else None)
    on_kafka = is_kafka(settings.events_url)
    with StoreConnection(settings.store_url if on_kafka else settings.events_url or settings.store_url) as events:
        streams: list[Place] = [] if on_kafka else [WaitingEntries(events, stream) for stream in OWNED_STREAMS]
        impression_logs: list[Place] = [ImpressionLogs(settings.impression_log)] if settings.impression_log else []
        yield [
            UserKeys(store, bundle),
            *streams,
            *(DeadLetterEntries(store, stream) for stream in OWNED_STREAMS),
            *(AppliedEntries(store, stream) for stream in OWNED_STREAMS),
            *(Archive(settings.data_dir / stream, stream) for stream in OWNED_STREAMS),
            AttributionReport(settings.data_dir / REPORT),
            PreparedFolders(settings.data_dir / PREPARED),
            FeatureSources(settings.data_dir),
            FeatureKeys(settings, store),
            BundleFolders(settings),
            RegistryVersions(settings),
            *impression_logs,
        ]


def _bundle(settings: Settings) -> Bundle | None:
    return open_checked(settings.bundle_path, settings) if settings.bundle_path else served_bundle(settings)


def remains(settings: Settings, user_id: str) -> Sequence[Remains]:
    """What is left of a user after every place was erased."""
    kafka = [
        Remains(
            what=f"messages of the Kafka topics {' and '.join(map(kafka_topic, OWNED_STREAMS))}: single ones cannot be "
            "deleted; none of before the deletion is applied any more",
            until="the topics' retention (retention.ms) is over",
        )
    ]
    unreadable = [
        Remains(
            what=f"dead letters that cannot be read: an id of fewer than {MIN_SEARCHED_BYTES} bytes is not looked for "
            "in their bytes, most of which hold it by chance",
            until="python -m feature_sync dead-letters drop",
        )
    ]
    return [
        *(kafka if is_kafka(settings.events_url) else []),
        *(unreadable if len(user_id.encode()) < MIN_SEARCHED_BYTES else []),
        Remains(
            what="the SHA-256 of the id with the time of the deletion, in the register of deleted users: without it "
            "the user would come back with a copy",
            until="you delete the line",
        ),
        Remains(
            what="weights of models that were trained with the user, and 64-bit hashes of ids where a user tower reads "
            "them",
            until="the next training without warm start is served, and the old versions are deleted",
        ),
        Remains(
            what="inputs of 32 held-out users without their ids (golden_queries.npz), and bundles in the data folders "
            "of servers on other machines",
            until="newer bundles replace them",
        ),
        Remains(
            what="item counters, trending items and popularity: sums over all users, which name nobody",
            until="they are not personal data",
        ),
        Remains(
            what="ids of applied events, as 64-bit digests",
            until=f"{2 * settings.event_id_seconds} seconds after the event at the latest (TANDEM_EVENT_ID_SECONDS)",
        ),
        Remains(
            what="the user's last list, in the memory of running servers",
            until="the worker has answered 10,000 other users, serves another model, or restarts",
        ),
        Remains(
            what="the store's append-only file and snapshots, which still hold what was written before",
            until="the store rewrites them: BGREWRITEAOF, BGSAVE",
        ),
        Remains(
            what="your source files and their downloaded copies (downloads/ in the data folder), training sets and "
            "exported bundles that you wrote elsewhere, DVC's cache, backups, replicas, logs",
            until="you delete them; the next `trainer prepare` leaves the user out of a source that still has the user",
        ),
    ]
