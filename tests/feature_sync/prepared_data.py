"""Writes small prepared data in the trainer's format, with row groups of any size."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tandem.contract import names
from tandem.contract.bundle import read_manifest
from tandem.contract.checksums import file_sha256
from tandem.contract.manifest import MANIFEST

EVENT_WEIGHTS = {"impression": 0.1, "click": 1.0, "add_to_cart": 3.0, "purchase": 5.0, "rating": 1.0, "dwell": 1.0}


def with_event_weights(source: Path, directory: Path) -> Path:
    """A copy of a bundle whose model was trained with the strongest event of each user and item."""
    shutil.copytree(source, directory)
    manifest = replace(read_manifest(directory), event_weights=EVENT_WEIGHTS)
    (directory / MANIFEST).write_text(manifest.to_json())
    return directory


@dataclass(frozen=True)
class Interaction:
    user_id: str
    item_id: str
    timestamp: int = 0
    event_type: str = "rating"


def write_prepared(
    directory: Path,
    interactions: list[Interaction],
    *,
    users: Mapping[str, Mapping[str, str | None]] | None = None,
    row_group_size: int = 1_000,
    sort: bool = True,
    low_rated: Sequence[tuple[str, str]] = (),
) -> Path:
    directory.mkdir(parents=True)
    rows = sorted(interactions, key=lambda row: row.user_id) if sort else interactions
    pq.write_table(
        pa.table(
            {
                names.USER_ID: pa.array([row.user_id for row in rows], pa.string()),
                names.ITEM_ID: pa.array([row.item_id for row in rows], pa.string()),
                names.RATING: pa.array([None for _ in rows], pa.float64()),
                names.TIMESTAMP: pa.array([row.timestamp for row in rows], pa.int64()),
                names.EVENT_TYPE: pa.array([row.event_type for row in rows], pa.string()),
            }
        ),
        directory / "interactions.parquet",
        row_group_size=row_group_size,
    )
    user_ids = sorted({row.user_id for row in rows})
    features = users or {}
    feature_names = sorted({name for values in features.values() for name in values})
    columns = {names.USER_ID: pa.array(user_ids, pa.string())}
    for name in feature_names:
        columns[name] = pa.array([features.get(user, {}).get(name) for user in user_ids], pa.string())
    pq.write_table(pa.table(columns), directory / "users.parquet", row_group_size=row_group_size)
    low_columns = {
        names.USER_ID: pa.array([user for user, _ in sorted(low_rated)], pa.string()),
        names.ITEM_ID: pa.array([item for _, item in sorted(low_rated)], pa.string()),
    }
    pq.write_table(pa.table(low_columns), directory / "low_rated.parquet", row_group_size=row_group_size)
    fingerprint = hashlib.sha256(repr((rows, features, low_rated)).encode()).hexdigest()
    checksums = {path.name: file_sha256(path) for path in directory.iterdir()}
    (directory / "prepared.json").write_text(
        json.dumps({"name": "known", "fingerprint": fingerprint, "files": checksums})
    )
    return directory
