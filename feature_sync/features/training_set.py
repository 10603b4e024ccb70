"""Training sets: interactions with the features of their user and item as known just before.

Feast joins the newest row that is not later than the requested time, which is the microsecond before the interaction: a
feature row of the interaction itself is never joined.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain, islice
from pathlib import Path
from typing import Final

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import structlog

from feature_sync.core.errors import FeatureStoreError
from feature_sync.core.settings import Settings
from feature_sync.features.feast_store import FeastStore
from feature_sync.features.history import parquet_files
from feature_sync.features.leaks import check_joined, check_source
from feature_sync.features.sources import Sources, features_dir
from feature_sync.features.update import microseconds_now, write_history
from tandem.contract import names

DEFAULT_SERVICE: Final = "training"
_LABELS_AT_A_TIME: Final = 20_000
"""Labels in one join. Feast pairs every label with all earlier rows of its user and of its item before it keeps the
newest."""
_ORDER: Final = (names.TIMESTAMP, names.USER_ID, names.ITEM_ID)
_LABEL_COLUMNS: Final = (names.USER_ID, names.ITEM_ID, names.TIMESTAMP, names.EVENT_TYPE, names.RATING)

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainingSetReport:
    """The training set that was written."""

    output: str
    service: str
    num_rows: int
    num_columns: int


def write_training_set(
    settings: Settings,
    prepared_dir: Path,
    output: Path,
    *,
    service: str = DEFAULT_SERVICE,
    since: datetime | None = None,
    until: datetime | None = None,
) -> TrainingSetReport:
    """Writes a Parquet file: a row for every interaction of the prepared data from `since` on and before `until`.

    Its columns are those of the interaction, then `{view}__{field}` for every field of the feature service. Raises
    FeatureSyncError; LeakError if a source or a joined value was not known before its label. No file is written then.
    """
    with (
        FeastStore(settings) as store,
        Sources(features_dir(settings.data_dir)) as sources,
        sources.locked(),
    ):
        services = store.services()
        if service not in services:
            raise FeatureStoreError(f"there is no feature service {service!r}; there are {', '.join(sorted(services))}")
        write_history(sources, settings, prepared_dir)
        now = microseconds_now()
        for view in store.views():
            if view.name in services[service]:
                check_source(view, now=now)
        labels = _labels(sources, prepared_dir, since, until)
        num_rows, num_columns = _write(_join(store, labels, service, services[service]), output)
    return TrainingSetReport(output=str(output), service=service, num_rows=num_rows, num_columns=num_columns)


def _labels(
    sources: Sources, prepared_dir: Path, since: datetime | None, until: datetime | None
) -> Iterator[pd.DataFrame]:
    """Interactions in order of time, with the time to join at. Raises FeatureStoreError if an interaction has no
    time."""
    interactions = parquet_files(prepared_dir / "interactions.parquet")
    if list(sources.rows(f"SELECT 1 FROM {interactions} WHERE {names.TIMESTAMP} <= 0 LIMIT 1")):
        raise FeatureStoreError("the data have interactions without a time: nothing says what was known before them")
    bounds = [
        f"{names.TIMESTAMP} {comparison} {int(moment.timestamp() * 1e6)}"
        for comparison, moment in ((">=", since), ("<", until))
        if moment is not None
    ]
    rows = sources.rows(
        f"SELECT {', '.join(_LABEL_COLUMNS)} FROM {interactions} WHERE {' AND '.join(bounds) or 'true'} "
        f"ORDER BY {', '.join(_ORDER)}"
    )
    while chosen := list(islice(rows, _LABELS_AT_A_TIME)):
        labels = pd.DataFrame(chosen, columns=list(_LABEL_COLUMNS))
        labels[names.RATING] = labels[names.RATING].astype("float64")
        labels[names.EVENT_TIMESTAMP] = pd.to_datetime(labels[names.TIMESTAMP] - 1, unit="us", utc=True)
        yield labels


def _join(store: FeastStore, labels: Iterator[pd.DataFrame], service: str, views: Sequence[str]) -> Iterator[pa.Table]:
    for chosen in labels:
        rows = store.historical(chosen, service).drop_columns([names.EVENT_TIMESTAMP])
        if len(rows) != len(chosen):
            raise FeatureStoreError(f"{len(chosen)} interactions became {len(rows)} rows: a source repeats a row")
        check_joined(rows, views)
        # Joined rows have no fixed order, but equal data must produce an equal file.
        yield rows.sort_by([(column, "ascending") for column in _ORDER])


def _write(tables: Iterator[pa.Table], output: Path) -> tuple[int, int]:
    """Writes tables of one schema to a file that appears complete or not at all; returns the number of rows and the
    columns."""
    first = next(tables, None)
    if first is None:
        raise FeatureStoreError("no interaction lies in that time")
    output.parent.mkdir(parents=True, exist_ok=True)
    staging = output.with_name(f".{output.name}")
    num_rows = 0
    try:
        with pq.ParquetWriter(staging, first.schema, compression="zstd") as writer:
            for table in chain([first], tables):
                writer.write_table(table.cast(first.schema))
                num_rows += len(table)
                _log.info("features_joined", num_rows=num_rows)
        staging.rename(output)
    finally:
        staging.unlink(missing_ok=True)
    return num_rows, first.num_columns
