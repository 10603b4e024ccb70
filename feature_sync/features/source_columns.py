"""The columns of the feature store's sources: for each view its entity, its values, and the markers that tell which row
is newer.

Types are DuckDB's. A row is added when a value differs from the entity's newest row; a changed marker alone adds no
row. The fields that Feast registers are in `feature_repo/definitions.py`; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from tandem.contract import names

_COUNTS: Final = dict.fromkeys(names.EVENT_COUNTS, "BIGINT")


@dataclass(frozen=True, kw_only=True)
class SourceColumns:
    """The columns of one view's source, except the two timestamps and `known_at`."""

    entity: str
    values: Mapping[str, str] = field(default_factory=dict)
    """Type by name."""
    markers: Mapping[str, str] = field(default_factory=dict)
    """Type by name. A marker is a number that grows with every change, or the name of a model."""

    @property
    def all(self) -> dict[str, str]:
        """Type by name of every column, `known_at` last."""
        return {self.entity: "VARCHAR", **self.values, **self.markers, names.KNOWN_AT: "BIGINT"}


SOURCES: Final[Mapping[str, SourceColumns]] = {
    # Demographics are text columns, named by the data.
    names.USER_PROFILE_VIEW: SourceColumns(entity=names.USER_ID, markers={names.STATE_REVISION: "BIGINT"}),
    names.USER_COUNTS_VIEW: SourceColumns(
        entity=names.USER_ID, values=_COUNTS, markers={names.STATE_REVISION: "BIGINT"}
    ),
    names.USER_VECTOR_VIEW: SourceColumns(
        entity=names.USER_ID,
        values={names.MODEL_VERSION: "VARCHAR", names.USER_VECTOR: "FLOAT[]"},
        markers={names.STATE_REVISION: "BIGINT"},
    ),
    names.ITEM_PROFILE_VIEW: SourceColumns(
        entity=names.ITEM_ID,
        values={
            names.TITLE: "VARCHAR",
            names.CATEGORIES: "VARCHAR[]",
            names.ATTRIBUTES: "VARCHAR",
            names.AVAILABLE: "BOOLEAN",
            names.POPULARITY: "BIGINT",
        },
        markers={names.MODEL_VERSION: "VARCHAR", names.CHANGE_SEQUENCE: "BIGINT"},
    ),
    names.ITEM_COUNTS_VIEW: SourceColumns(entity=names.ITEM_ID, values=_COUNTS),
    names.ITEM_TEXT_VIEW: SourceColumns(
        entity=names.ITEM_ID, values={names.TEXT_HASH: "VARCHAR", names.TEXT_EMBEDDING: "FLOAT[]"}
    ),
    names.ITEM_VECTOR_VIEW: SourceColumns(
        entity=names.ITEM_ID,
        values={names.MODEL_VERSION: "VARCHAR", names.ITEM_VECTOR: "FLOAT[]"},
        markers={names.CHANGE_SEQUENCE: "BIGINT"},
    ),
}
