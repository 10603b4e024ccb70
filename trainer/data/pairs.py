"""One interaction for each user and item: the strongest, which stands for all of them, with their counts.

`tandem.contract.event_rule` is the rule; here it is an expression that any engine runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import ibis

from tandem.contract import names
from tandem.contract.event_rule import EventRule
from trainer.data.config import DataConfig
from trainer.data.engine import Engine, write_counted
from trainer.data.raw import POSITION
from trainer.data.scan import ROW

ORDER: Final = (names.TIMESTAMP, POSITION, ROW)
"""Columns by which a user's interactions are ordered."""
_PAIR: Final = (names.USER_ID, names.ITEM_ID)
_STRENGTH: Final = "strength"
_NUMBER_IN_PAIR: Final = "number_in_pair"
_HIGHEST_RATING: Final = "highest_rating"


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """The interactions that stand for all."""

    rows: Any
    """Ibis table: the columns of the source, the counts names.EVENT_COUNTS of each pair, and names.LAST_TIMESTAMP."""
    num_rows: int
    merged: Mapping[str, Mapping[str, int]]
    """Type of interactions that are no row of their own -> type of the stronger ones that stand for them -> number."""
    num_repeats: int
    """Interactions that are no row of their own and have the type of the one that stands for them, or one as strong."""


def rule_of(config: DataConfig) -> EventRule:
    """The rule by which a data set's events become choices."""
    return EventRule(config.min_rating, config.event_weights.model_dump())


def one_of_each_pair(engine: Engine, rows: Any, config: DataConfig, num_of_type: Mapping[str, int]) -> Pairs:
    """Chooses the strongest interaction of each pair, among equally strong ones the first; `num_of_type` are the
    numbers of all interactions by type.

    One without a rating gets the highest that the user had given the item until then.
    """
    weights = rule_of(config).event_weights
    strength_of_type = {name: float(weights[name]) for name in num_of_type}
    order: tuple[Any, ...] = ORDER
    if len(set(strength_of_type.values())) > 1:
        strength = ibis.cases(*((rows[names.EVENT_TYPE] == name, value) for name, value in strength_of_type.items()))
        until_now = ibis.cumulative_window(group_by=_PAIR, order_by=ORDER)
        rows = rows.mutate(
            strength.cast("float64").name(_STRENGTH), rows[names.RATING].max().over(until_now).name(_HIGHEST_RATING)
        )
        rows = rows.mutate(rows[names.RATING].coalesce(rows[_HIGHEST_RATING]).name(names.RATING))
        order = (ibis.desc(_STRENGTH), *ORDER)
    ranked = ibis.window(group_by=_PAIR, order_by=order)
    pair = ibis.window(group_by=_PAIR, order_by=order, rows=(None, None))
    numbered = rows.mutate(
        ibis.row_number().over(ranked).name(_NUMBER_IN_PAIR),
        rows[names.TIMESTAMP].max().over(pair).name(names.LAST_TIMESTAMP),
        *(
            (rows[names.EVENT_TYPE] == name).cast("int64").sum().over(pair).cast("int64").name(column)
            if name in num_of_type
            else ibis.literal(0, "int64").name(column)
            for name, column in zip(names.EVENT_TYPES, names.EVENT_COUNTS, strict=True)
        ),
    )
    chosen = numbered.filter(numbered[_NUMBER_IN_PAIR] == 0).drop(_NUMBER_IN_PAIR)
    chosen = chosen.drop(*(column for column in (_STRENGTH, _HIGHEST_RATING) if column in chosen.columns))
    written, num_pairs = write_counted(engine, chosen, engine.work_dir / "pairs.parquet")
    merged = _merged(engine, written, strength_of_type) if len(order) > len(ORDER) else {}
    num_merged = sum(number for by_type in merged.values() for number in by_type.values())
    return Pairs(
        rows=written,
        num_rows=num_pairs,
        merged=merged,
        num_repeats=sum(num_of_type.values()) - num_pairs - num_merged,
    )


def _merged(engine: Engine, pairs: Any, strength_of_type: Mapping[str, float]) -> dict[str, dict[str, int]]:
    """See `Pairs.merged`: all interactions of another, weaker type than the one that stands for them."""
    columns = dict(zip(names.EVENT_TYPES, names.EVENT_COUNTS, strict=True))
    sums = pairs.group_by(names.EVENT_TYPE).agg(
        **{columns[name]: pairs[columns[name]].sum() for name in strength_of_type}
    )
    by_standing = {row[names.EVENT_TYPE]: row for row in engine.rows(sums)}
    merged: dict[str, dict[str, int]] = {}
    for name in names.EVENT_TYPES:
        for standing in names.EVENT_TYPES:
            if name not in strength_of_type or standing not in by_standing:
                continue
            if strength_of_type[name] < strength_of_type[standing] and (
                number := int(by_standing[standing][columns[name]] or 0)
            ):
                merged.setdefault(name, {})[standing] = number
    return merged
