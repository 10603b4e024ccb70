"""What the sources of the feature store hold: per view its entity, its values, and the markers that say which is newer.

Types are DuckDB's. A source is written when a value differs from the entity's newest row; a marker alone makes no row.
The fields that Feast registers are in `feature_repo/definitions.py`; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from tandem.contract import names

_COUNTS: Final = dict.fromkeys(names.EVENT_COUNTS, "BIGINT")


@dataclass(frozen=True, kw_only=True)
class SourceColumns:
    """The columns of one view's source, beside the two timestamps and `known_at`."""

    entity: str
    values: Mapping[str, str] = field(default_factory=dict)
    """Type by name."""
    markers: Mapping[str, str] = field(default_factory=dict)
    """Type by name: a number that grows with every change, or the name of a model."""

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
