"""Rules for bad rows: Ibis expressions that turn raw text into typed columns, with the first defect of each row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import ibis

from tandem.contract import names
from trainer.data import report as kinds
from trainer.data.config import DataConfig, TimestampUnit
from trainer.data.duckdb_engine import duckdb_function
from trainer.data.raw import DEFECT, EXCERPT, POSITION, InteractionRules
from trainer.data.scan import ROW

_MAX_ID_BYTES: Final = 256
_END_OF_TIME_SECONDS: Final = 4_102_444_800  # 2100-01-01: a later time has the wrong unit
_PER_SECOND: Final[Mapping[TimestampUnit, int]] = {"seconds": 1, "milliseconds": 1_000, "microseconds": 1_000_000}

_epoch_us = duckdb_function("epoch_us", ("timestamp('UTC')",), "int64")
_num_bytes = duckdb_function("strlen", ("string",), "int64")


def interaction_rows(rows: Any, rules: InteractionRules, config: DataConfig) -> Any:
    """Raw interactions as typed columns; DEFECT is the first reason why a row is bad, or null."""
    rows = rows.mutate(**{name: _number_text(rows[name]) for name in (names.RATING, POSITION)})
    rating = _finite(rows[names.RATING])
    timestamp = _microseconds(rows[names.TIMESTAMP], rules.timestamp_unit)
    position = _finite(rows[POSITION])
    event_type = ibis.literal(rules.default_event_type)
    is_rated = rows[names.EVENT_TYPE] == rules.rated_event_type if rules.rated_event_type else ibis.literal(True)
    reasons = [
        (rows[DEFECT].notnull(), rows[DEFECT]),
        (rows[names.USER_ID].isnull(), kinds.MISSING_USER),
        (rows[names.ITEM_ID].isnull(), kinds.MISSING_ITEM),
        (_too_long(rows[names.USER_ID]) | _too_long(rows[names.ITEM_ID]), kinds.ID_TOO_LONG),
    ]
    if rules.has_rating:
        in_range = rating.between(config.rating_scale_min, config.rating_scale_max)
        reasons += [
            (is_rated & rows[names.RATING].isnull(), kinds.MISSING_RATING),
            (is_rated & rating.isnull(), kinds.UNPARSABLE_RATING),
            (~in_range, kinds.RATING_OUT_OF_RANGE),
        ]
    if rules.timestamp_unit is not None:
        reasons += [
            (rows[names.TIMESTAMP].isnull(), kinds.MISSING_TIMESTAMP),
            (timestamp.isnull(), kinds.UNPARSABLE_TIMESTAMP),
        ]
    if rules.has_position:
        reasons += [
            (rows[POSITION].isnull(), kinds.MISSING_POSITION),
            (position.isnull(), kinds.UNPARSABLE_POSITION),
        ]
    if rules.event_types:
        mapping = ibis.map(ibis.array(list(rules.event_types)), ibis.array(list(rules.event_types.values())))
        event_type = mapping.get(rows[names.EVENT_TYPE])
        reasons.append((event_type.isnull(), kinds.UNKNOWN_EVENT_TYPE))
    return rows.select(
        ROW,
        EXCERPT,
        names.USER_ID,
        names.ITEM_ID,
        ibis.cases(*reasons).cast("string").name(DEFECT),
        rating.name(names.RATING),
        timestamp.fill_null(0).name(names.TIMESTAMP),
        position.name(POSITION),
        event_type.name(names.EVENT_TYPE),
    )


def identified_rows(rows: Any, id_column: str) -> Any:
    """Raw items or users; DEFECT is the first reason why a row is bad, or null."""
    missing = kinds.MISSING_ITEM if id_column == names.ITEM_ID else kinds.MISSING_USER
    defect = ibis.cases(
        (rows[DEFECT].notnull(), rows[DEFECT]),
        (rows[id_column].isnull(), missing),
        (_too_long(rows[id_column]), kinds.ID_TOO_LONG),
    )
    return rows.mutate(defect.cast("string").name(DEFECT))


def _number_text(text: Any) -> Any:
    """The text of a number; null for NaN, which is a missing value in every format."""
    return ibis.cases((~text.re_search(r"^[+-]?[nN][aA][nN]$"), text))


def _finite(text: Any) -> Any:
    """Text -> float64; null unless it is a finite number."""
    number = text.try_cast("float64")
    return ibis.cases((~(number.isinf() | number.isnan()), number))


def _too_long(text: Any) -> Any:
    return _num_bytes(text) > _MAX_ID_BYTES


def _microseconds(text: Any, unit: TimestampUnit | None) -> Any:
    """Text -> int64 microseconds since 1970; null unless it is a time from 1970 to 2100.

    float64 is exact here: microseconds stay below 2^53 until the year 2255.
    """
    if unit == "iso":
        time = _epoch_us(text.try_cast("timestamp('UTC')"))
        return ibis.cases((time.between(0, _END_OF_TIME_SECONDS * 1_000_000), time))
    per_second = _PER_SECOND[unit or "seconds"]
    number = text.try_cast("float64")
    in_range = number.between(0, _END_OF_TIME_SECONDS * per_second)
    return ibis.cases((in_range, (number * (1_000_000 // per_second)).round().try_cast("int64")))
