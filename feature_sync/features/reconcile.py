"""Compares Feast's online values with what serving holds, entity by entity and field by field.

It compares three values: serving's, Feast's online value, and the newest row of the offline source, which Feast should
hold since the last materialisation.

| online = serving | online = source | serving has moved on | it is                                                |
| ---------------- | --------------- | -------------------- | ---------------------------------------------------- |
| yes              |                 |                      | equal                                                |
| no               | yes             | yes                  | serving is newer: the next materialisation brings it |
| no               | anything else   |                      | a difference                                         |

A marker shows that serving has moved on: a higher revision of the state, a later change of the item, another model.
Texts and counts of items have no serving key; their source takes the role of serving.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from feature_sync.core.errors import FeatureStoreError
from feature_sync.core.settings import Settings
from feature_sync.features.feast_store import FeastStore, View
from feature_sync.features.serving_keys import ServingKeys
from feature_sync.features.serving_rows import Rows, ServingCatalogue, user_rows
from feature_sync.features.source_columns import SOURCES
from feature_sync.features.sources import Sources, features_dir
from feature_sync.features.update import batches, microseconds_now, served_bundle
from tandem.contract import names

Kind = Literal["different", "serving_newer"]
DIFFERENT: Final[Kind] = "different"
SERVING_NEWER: Final[Kind] = "serving_newer"

_GROWING_MARKERS: Final = frozenset({names.STATE_REVISION, names.CHANGE_SEQUENCE})
_SHOWN_CHARACTERS: Final = 120


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One field of one entity whose values differ."""

    view: str
    entity_id: str
    field: str
    kind: Kind
    serving: Any
    online: Any

    def line(self) -> str:
        """One line for people."""
        return (
            f"{self.kind} {self.view} {self.entity_id} {self.field}: serving {_shown(self.serving)}, "
            f"feast {_shown(self.online)}"
        )


@dataclass(frozen=True, kw_only=True)
class ReconcileReport:
    """The number of values compared, and the differences found."""

    model_version: str
    num_users: int
    num_items: int
    num_different: int = 0
    """Number of fields that differ although serving has not moved on."""
    num_serving_newer: int = 0
    different_by_view: dict[str, int] = field(default_factory=dict)
    serving_newer_by_view: dict[str, int] = field(default_factory=dict)
    num_repaired: int = 0
    """Number of rows written into Feast's online store, one for each view and entity."""


def reconcile(
    settings: Settings,
    show: Callable[[Difference], None],
    *,
    bundle_dir: Path | None = None,
    sample: int | None = None,
    repair: bool = False,
) -> ReconcileReport:
    """Compares all users and items, or `sample` of each at random, and hands every difference to `show`.

    `repair` writes serving's values into Feast's online store, and compares again; the report has the differences found
    before. Raises FeatureSyncError (FeatureStoreError if a repair had no effect) or BundleError.
    """
    bundle = served_bundle(settings, bundle_dir)
    with (
        FeastStore(settings) as store,
        Sources(features_dir(settings.data_dir)) as sources,
        ServingKeys(settings.store_url) as serving,
    ):
        views = {view.name: view for view in store.views() if view.name in SOURCES}
        comparison = _Comparison(store, sources, views, show, repair=repair)
        user_ids = _sampled(serving.user_ids(), sample)
        model_version = bundle.manifest.model_version
        for chosen in batches(user_ids):
            users = serving.users(chosen, model_version)
            comparison.compare({user.user_id: user_rows(user, model_version) for user in users}, entity=names.USER_ID)
        catalogue = ServingCatalogue(
            bundle=bundle, changes=serving.item_changes(), vectors=serving.item_vectors(model_version)
        )
        item_ids = _sampled(catalogue.item_ids(), sample)
        for chosen in batches(item_ids):
            comparison.compare(catalogue.rows(chosen), entity=names.ITEM_ID)
    counts = comparison.counts
    return ReconcileReport(
        model_version=model_version,
        num_users=len(user_ids),
        num_items=len(item_ids),
        num_different=sum(counts[DIFFERENT].values()),
        num_serving_newer=sum(counts[SERVING_NEWER].values()),
        different_by_view=dict(counts[DIFFERENT]),
        serving_newer_by_view=dict(counts[SERVING_NEWER]),
        num_repaired=comparison.num_repaired,
    )


class _Comparison:
    """Compares batch by batch, counting and repairing."""

    def __init__(
        self,
        store: FeastStore,
        sources: Sources,
        views: Mapping[str, View],
        show: Callable[[Difference], None],
        *,
        repair: bool,
    ) -> None:
        self._store, self._sources, self._views, self._show, self._repair = store, sources, views, show, repair
        self.counts: dict[Kind, Counter[str]] = {DIFFERENT: Counter(), SERVING_NEWER: Counter()}
        self.num_repaired = 0

    def compare(self, rows_by_id: Mapping[str, Rows], *, entity: str) -> None:
        """Compares all views of some entities; `rows` are the values that serving holds."""
        ids = list(rows_by_id)
        for name, view in self._views.items():
            if view.entity != entity or not ids:
                continue
            source = self._sources.newest(name, ids)
            serving = {i: rows[name] for i, rows in rows_by_id.items() if name in rows}
            if not _is_served(name):
                serving = source
            different = self._compare_view(view, serving, source)
            if self._repair and different:
                self._write(view, {i: serving[i] for i in different})

    def _compare_view(
        self, view: View, serving: Mapping[str, Mapping[str, Any]], source: Mapping[str, Mapping[str, Any]]
    ) -> list[str]:
        """Ids of the entities that differ."""
        online = self._store.online(view, list(serving)) if serving else {}
        different = []
        for entity_id, row in serving.items():
            found = list(_differences(view, entity_id, row, online[entity_id], source.get(entity_id, {})))
            for difference in found:
                self.counts[difference.kind][view.name] += 1
                self._show(difference)
            if found:
                different.append(entity_id)
        return different

    def _write(self, view: View, rows: Mapping[str, Mapping[str, Any]]) -> None:
        self._store.write_online(view, list(rows.values()), now=microseconds_now())
        online = self._store.online(view, list(rows))
        for entity_id, row in rows.items():
            # Feast keeps a stored row that is dated later than the new row.
            if any(True for _ in _differences(view, entity_id, row, online[entity_id], row)):
                raise FeatureStoreError(
                    f"{view.name} of {entity_id!r} is still different after the repair: is it dated in the future? "
                    "Delete its key in the online store, then repair again"
                )
        self.num_repaired += len(rows)


def _differences(
    view: View,
    entity_id: str,
    serving: Mapping[str, Any],
    online: Mapping[str, Any],
    source: Mapping[str, Any],
) -> Iterator[Difference]:
    columns = SOURCES[view.name]
    ignored = {columns.entity, names.KNOWN_AT, names.EVENT_TIMESTAMP, names.CREATED_TIMESTAMP, *columns.markers}
    moved_on = _has_moved_on(serving, source)
    for name in sorted({*view.fields, *serving} - ignored):
        ours, theirs = serving.get(name), online.get(name)
        if ours == theirs:
            continue
        is_newer = moved_on and theirs == source.get(name)
        yield Difference(
            view=view.name,
            entity_id=entity_id,
            field=name,
            kind=SERVING_NEWER if is_newer else DIFFERENT,
            serving=ours,
            online=theirs,
        )


def _has_moved_on(serving: Mapping[str, Any], source: Mapping[str, Any]) -> bool:
    """Whether serving's value is newer than the source's row; true if the source has no row."""
    if not source:
        return True
    if serving.get(names.MODEL_VERSION) != source.get(names.MODEL_VERSION):
        return True
    return any((serving.get(marker) or 0) > (source.get(marker) or 0) for marker in _GROWING_MARKERS)


def _is_served(view: str) -> bool:
    return view not in {names.ITEM_COUNTS_VIEW, names.ITEM_TEXT_VIEW}


def _sampled(ids: Iterable[str], sample: int | None) -> Sequence[str]:
    unique = sorted(set(ids))
    return unique if sample is None or sample >= len(unique) else sorted(random.sample(unique, sample))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."
