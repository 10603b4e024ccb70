"""Writes the sources, applies the repository, and materialises the sources into the online store.

    prepared data, archive -> rows of the past  \\
    serving keys, bundle   -> rows observed now  > one source per view -> Feast's registry -> Feast's online store

Read `materialise` downwards. It is idempotent: a second run changes nothing.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

import structlog

from feature_sync.bundles.checked import open_checked
from feature_sync.bundles.registry import fetch_bundle, find_version, open_registry
from feature_sync.core.errors import FeatureStoreError
from feature_sync.core.settings import Settings
from feature_sync.features import history
from feature_sync.features.feast_store import FeastStore, View, apply_repository
from feature_sync.features.serving_keys import ServingKeys
from feature_sync.features.serving_rows import Rows, ServingCatalogue, user_rows
from feature_sync.features.source_columns import SOURCES
from feature_sync.features.sources import Sources, features_dir
from feature_sync.features.texts import text_rows
from feature_sync.prepared.prepared import open_prepared
from tandem.contract import names
from tandem.contract.bundle import Bundle
from tandem.contract.streams import EVENTS, ITEM_CHANGES
from tandem.ops.deleted_users_file import read_deleted_users

BATCH: Final = 500
"""Entities in one read of the serving keys."""

_T = TypeVar("_T")
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class MaterialiseReport:
    """The effects of a materialisation."""

    model_version: str
    rows_observed: dict[str, int] = field(default_factory=dict)
    """Rows added to each source because serving held a different value."""
    materialised_since: dict[str, str] = field(default_factory=dict)
    """The time from which each view's rows were copied into the online store, ISO 8601; views without rows are left
    out."""
    num_keys_renewed: int = 0


def apply(settings: Settings, prepared_dir: Path) -> list[str]:
    """Writes the sources' rows of the past and applies the repository; returns Feast's output lines.

    Raises FeatureSyncError.
    """
    with Sources(features_dir(settings.data_dir)) as sources, sources.locked():
        write_history(sources, settings, prepared_dir)
    return apply_repository(settings)


def materialise(settings: Settings, prepared_dir: Path, *, bundle_dir: Path | None = None) -> MaterialiseReport:
    """Updates the sources from the data and from serving, and Feast's online store from the sources.

    Raises FeatureSyncError, BundleError, or TextEncoderError.
    """
    bundle = served_bundle(settings, bundle_dir)
    with (
        FeastStore(settings) as store,
        Sources(features_dir(settings.data_dir)) as sources,
        sources.locked(),
        ServingKeys(settings.store_url) as serving,
    ):
        define_events(sources, settings, prepared_dir)
        observe_serving(sources, serving, bundle, prepared_dir, text_threads=settings.text_threads)
        now = microseconds_now()
        added = _write(sources, settings, prepared_dir, now)
        _check_fields(store.views(), sources)
        first_times = {view: sources.first_time(view) for view in SOURCES}
        began = store.materialise(first_times, until=now)
        renewed = _renew_keys(store, sources, serving, settings.features_ttl_seconds)
    report = MaterialiseReport(
        model_version=bundle.manifest.model_version,
        rows_observed=added,
        materialised_since=began,
        num_keys_renewed=renewed,
    )
    _log.info("features_materialised", model_version=report.model_version, rows_observed=added, num_keys=renewed)
    return report


def write_history(sources: Sources, settings: Settings, prepared_dir: Path) -> None:
    """Writes every source from the data and from earlier observations, without reading serving."""
    define_events(sources, settings, prepared_dir)
    _write(sources, settings, prepared_dir, microseconds_now())


def define_events(sources: Sources, settings: Settings, prepared_dir: Path) -> None:
    """Opens prepared data: later queries read its events and those of the archive.

    Raises PreparedDataError, DeletedUsersUnreadable and OSError.
    """
    open_prepared(prepared_dir)
    interactions, deleted = prepared_dir / "interactions.parquet", read_deleted_users(settings.data_dir)
    sources.define(history.EVENTS, history.events_sql(interactions, settings.data_dir / EVENTS, deleted=deleted))


def served_bundle(settings: Settings, bundle_dir: Path | None) -> Bundle:
    """The bundle in a folder, or the bundle that the registry's alias names. Raises RegistryError or BundleError."""
    if bundle_dir is not None:
        return open_checked(bundle_dir, settings)
    registry = open_registry(settings)
    version = find_version(registry, settings.model_alias)
    return fetch_bundle(registry, version, settings)


def observe_serving(
    sources: Sources, serving: ServingKeys, bundle: Bundle, prepared_dir: Path, *, text_threads: int
) -> None:
    """Observes serving's current values of every user and every item."""
    model_version = bundle.manifest.model_version
    for user_ids in batches(serving.user_ids()):
        users = serving.users(user_ids, model_version)
        _observe(sources, (user_rows(user, model_version) for user in users))
    catalogue = ServingCatalogue(
        bundle=bundle, changes=serving.item_changes(), vectors=serving.item_vectors(model_version)
    )
    for item_ids in batches(catalogue.item_ids()):
        _observe(sources, catalogue.rows(item_ids).values())
    texts = history.item_texts_sql(prepared_dir / "items.parquet")
    schema = bundle.manifest.feature_schema
    for rows in text_rows(sources, texts, catalogue.changes, schema, threads=text_threads):
        sources.observe(names.ITEM_TEXT_VIEW, rows)


def batches(values: Iterable[_T]) -> Iterator[list[_T]]:
    """Values in lists of at most BATCH."""
    remaining = iter(values)
    while batch := list(itertools.islice(remaining, BATCH)):
        yield batch


def microseconds_now() -> int:
    """The time, in microseconds since 1970."""
    return time.time_ns() // 1_000


def _observe(sources: Sources, rows_of_entities: Iterable[Rows]) -> None:
    by_view: dict[str, list[dict[str, object]]] = {}
    for rows in rows_of_entities:
        for view, row in rows.items():
            by_view.setdefault(view, []).append(row)
    for view, rows_of_view in by_view.items():
        sources.observe(view, rows_of_view)


def _write(sources: Sources, settings: Settings, prepared_dir: Path, now: int) -> dict[str, int]:
    items = history.item_profile_sql(prepared_dir / "items.parquet", settings.data_dir / ITEM_CHANGES)
    past_rows = {
        names.USER_PROFILE_VIEW: history.user_profile_sql(
            prepared_dir / "users.parquet", deleted=read_deleted_users(settings.data_dir)
        ),
        names.USER_COUNTS_VIEW: history.counts_sql(names.USER_ID),
        names.ITEM_PROFILE_VIEW: items,
        names.ITEM_COUNTS_VIEW: history.counts_sql(names.ITEM_ID),
    }
    # Counts of items are not served, so their newest row of the past counts as observed: an event that is archived late
    # is dated before the last materialisation, and would otherwise never reach the online store.
    sources.observe_history(names.ITEM_COUNTS_VIEW, past_rows[names.ITEM_COUNTS_VIEW])
    return {view: sources.write(view, history=past_rows.get(view), now=now) for view in SOURCES}


def _check_fields(views: Sequence[View], sources: Sources) -> None:
    """The data name the demographics: other data need another registration."""
    for view in views:
        if view.name in SOURCES and (new := sorted(sources.field_names(view.name) - set(view.fields))):
            raise FeatureStoreError(
                f"view {view.name} has no field {', '.join(new)}, the data have: python -m feature_sync features apply"
            )


def _renew_keys(store: FeastStore, sources: Sources, serving: ServingKeys, seconds: int) -> int:
    """Renews the time to live of every entity of the sources: Feast renews only the keys that it writes."""
    if not seconds:
        return 0
    num_renewed = 0
    for entity, view in ((names.USER_ID, names.USER_COUNTS_VIEW), (names.ITEM_ID, names.ITEM_PROFILE_VIEW)):
        for ids in batches(sources.ids(view)):
            serving.expire(store.online_keys(entity, ids), seconds)
            num_renewed += len(ids)
    return num_renewed
