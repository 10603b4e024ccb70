"""Impressions as an Arrow table: the columns of their Parquet files, one row for each answer.

Readers select and flatten the columns they need; `first_position` plus the index in a list is an item's position.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import pyarrow as pa

from tandem.contract import names
from tandem.contract.impressions import Impression

SCHEMA: Final = pa.schema(
    [
        (names.REQUEST_ID, pa.string()),
        (names.TIMESTAMP, pa.int64()),  # sent, microseconds since 1970
        (names.USER_ID, pa.string()),  # empty: anonymous
        (names.SCENARIO, pa.string()),
        (names.PLACEMENT, pa.string()),
        (names.CONTEXT, pa.map_(pa.string(), pa.string())),
        (names.MODEL_VERSION, pa.string()),
        (names.VARIANT, pa.string()),
        (names.POLICY_FINGERPRINT, pa.string()),
        (names.ANSWER_SOURCE, pa.string()),
        (names.DEGRADED_REASONS, pa.list_(pa.string())),
        (
            names.ASSIGNMENTS,
            pa.list_(
                pa.struct([(names.EXPERIMENT, pa.string()), (names.ARM, pa.string()), (names.EXPOSED, pa.bool_())])
            ),
        ),
        (names.FIRST_POSITION, pa.int32()),
        (names.ITEM_IDS, pa.list_(pa.string())),
        (names.SOURCES, pa.list_(pa.string())),
        (names.SCORES, pa.list_(pa.float32())),
        (names.PROPENSITIES, pa.list_(pa.float32())),
        (names.NUM_CANDIDATES, pa.int32()),  # 0: the policy did not explore
        (names.RANKS, pa.list_(pa.int32())),
        (names.LATENCY_US, pa.int64()),  # null: not known
    ]
)
"""The columns, named as the fields of `Impression`."""


def to_table(impressions: Iterable[Impression]) -> pa.Table:
    """One row of SCHEMA for each impression, in order."""
    rows = list(impressions)
    columns = {
        **{name: [getattr(row, name) for row in rows] for name in SCHEMA.names},
        names.CONTEXT: [list(row.context.items()) for row in rows],
        names.ASSIGNMENTS: [[arm._asdict() for arm in row.assignments] for row in rows],
    }
    return pa.Table.from_arrays([pa.array(columns[field.name], field.type) for field in SCHEMA], schema=SCHEMA)
