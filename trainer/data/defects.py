"""Rules for bad rows: Ibis expressions that turn raw text into typed columns, with the first defect of each row."""

from __future__ import annotations

from typing import Any, Final

import ibis

from tandem.contract import names
from trainer.data import report as kinds
from trainer.data.config import DataConfig
from trainer.data.duckdb_engine import duckdb_function
from trainer.data.raw import DEFECT, EXCERPT, POSITION, InteractionRules
from trainer.data.scan import ROW
from trainer.data.times import microseconds
from trainer.data.values import SHORTENED

_MAX_ID_BYTES: Final = 256
_num_bytes = duckdb_function("strlen", ("string",), "int64")


def interaction_rows(rows: Any, rules: InteractionRules, config: DataConfig) -> Any:
    """Raw interactions as typed columns; DEFECT is the first reason why a row is bad, or null."""
    rows = rows.mutate(**{name: _number_text(rows[name]) for name in (names.RATING, POSITION, names.WEIGHT)})
    rating = _finite(rows[names.RATING])
    timestamp = microseconds(rows[names.TIMESTAMP], rules.timestamp_unit or "seconds")
    position = _finite(rows[POSITION])
    weight = _finite(rows[names.WEIGHT])
    event_type = ibis.literal(rules.default_event_type)
    is_rated = rows[names.EVENT_TYPE] == rules.rated_event_type if rules.rated_event_type else ibis.literal(True)
    reasons = [
        (rows[DEFECT].notnull(), rows[DEFECT]),
        *((rows[names.EVENT_TYPE] == name, kinds.IGNORED_EVENT_TYPE) for name in rules.ignored_event_types),
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
            (rows[names.TIMESTAMP].re_search(SHORTENED), kinds.TIME_IMPRECISE),
            (timestamp.isnull(), kinds.UNPARSABLE_TIMESTAMP),
        ]
    if rules.has_position:
        reasons += [
            (rows[POSITION].isnull(), kinds.MISSING_POSITION),
            (position.isnull(), kinds.UNPARSABLE_POSITION),
        ]
    if rules.has_weight:
        reasons += [
            (rows[names.WEIGHT].isnull(), kinds.MISSING_WEIGHT),
            (weight.isnull() | (weight <= 0.0), kinds.UNPARSABLE_WEIGHT),
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
        weight.name(names.WEIGHT),
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
