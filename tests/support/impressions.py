"""Impressions read back from the table that they were written to."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from tandem.contract import names
from tandem.contract.impressions import Impression, ShownArm


def from_table(table: pa.Table) -> Iterator[Impression]:
    """The impressions of a table of SCHEMA, in its order."""
    for row in table.to_pylist():
        arms = [ShownArm(**arm) for arm in row[names.ASSIGNMENTS]]
        yield Impression(**{**row, names.CONTEXT: dict(row[names.CONTEXT]), names.ASSIGNMENTS: arms})
