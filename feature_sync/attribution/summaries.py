"""Counts and rates of what was shown in the period, by one dimension at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from feature_sync.attribution.database import NOT_OWED, OWED, Database

DIMENSIONS: Final[Mapping[str, str]] = {
    "all": "''",
    "day": "day",
    "scenario": "scenario",
    "placement": "placement",
    "position": "position",
    "model": "model_version",
    "policy": "policy_fingerprint",
    "answer_source": "answer_source",
    "arm": "experiment || ': ' || arm",
    "arm_and_day": "experiment || ': ' || arm || ', ' || day",
}
"""Expressions over `facts`, by dimension; those of arms also over exposures."""
ALL: Final = "all"
ARM: Final = "arm"
ARM_AND_DAY: Final = "arm_and_day"
_OF_ARMS: Final = (ARM, ARM_AND_DAY)

_COUNTS: Final = """
    count(DISTINCT request_id) AS answers,
    count(DISTINCT request_id) FILTER (is_degraded) AS degraded_answers,
    count(DISTINCT unit) AS users,
    count(item_id) AS shown,
    count(*) FILTER (clicks > 0) AS clicked,
    count(*) FILTER (add_to_carts > 0) AS added_to_cart,
    count(*) FILTER (purchases > 0) AS purchased,
    sum(clicks)::BIGINT AS clicks,
    sum(add_to_carts)::BIGINT AS add_to_carts,
    sum(purchases)::BIGINT AS purchases,
    sum(ratings)::BIGINT AS ratings,
    sum(dwell_seconds) AS dwell_seconds,
    avg(latency_us) FILTER (is_first) / 1000 AS latency_ms
"""
_RATES: Final = """
    clicked / nullif(shown, 0) AS ctr,
    added_to_cart / nullif(shown, 0) AS add_to_cart_rate,
    purchased / nullif(shown, 0) AS conversion,
    dwell_seconds / nullif(shown, 0) AS dwell_seconds_per_item,
    shown / nullif(answers, 0) AS items_per_answer
"""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One value of a dimension."""

    dimension: str
    value: str
    """Empty for the dimension `all`, and where the value is missing."""
    experiment: str
    """Of the dimensions of arms; empty otherwise."""
    arm: str
    counts: Mapping[str, int | float | None]
    """Counts and rates by name; a rate is None where nothing was shown."""
    revenue: Mapping[str, float] = field(default_factory=dict)
    """Sums of purchases by currency, which are never added up."""

    def as_json(self) -> dict[str, Any]:
        """For JSON."""
        arm = {"experiment": self.experiment, "arm": self.arm} if self.experiment else {}
        return {"value": self.value, **arm, **self.counts, "revenue": dict(self.revenue)}


def summaries(database: Database) -> dict[str, list[Line]]:
    """Lines of every dimension, by its name, in the order of their values."""
    return {dimension: _lines(database, dimension) for dimension in DIMENSIONS}


def event_counts(database: Database) -> dict[str, dict[str, int]]:
    """Number of events by type, then by `match`: those owed to answers of the period, and those of the period that are
    owed to none."""
    rows = database.rows(
        "SELECT event_type, match, count(*) AS events FROM attributed WHERE in_period GROUP BY ALL ORDER BY ALL"
    )
    found = {event_type: dict.fromkeys((*OWED, *NOT_OWED), 0) for event_type in {row["event_type"] for row in rows}}
    for row in rows:
        found[row["event_type"]][row["match"]] = row["events"]
    return dict(sorted(found.items()))


def answers_not_exposed(database: Database) -> list[dict[str, Any]]:
    """Answers of the period that count for no arm, because control stood in for it, by experiment and arm."""
    return database.rows(
        "SELECT experiment, arm, count(*) AS answers FROM exposures JOIN answers USING (request_id) "
        "WHERE in_period AND NOT exposed GROUP BY ALL ORDER BY ALL"
    )


def _lines(database: Database, dimension: str) -> list[Line]:
    revenue: dict[tuple[Any, ...], dict[str, float]] = {}
    for row in database.rows(_revenue_sql(dimension)):
        revenue.setdefault((row["value"], row["experiment"], row["arm"]), {})[row["currency"]] = row["revenue"]
    lines = []
    for row in database.rows(_counts_sql(dimension)):
        value, experiment, arm = row.pop("value"), row.pop("experiment"), row.pop("arm")
        lines.append(
            Line(
                dimension=dimension,
                value="" if value is None else str(value),
                experiment=experiment,
                arm=arm,
                counts=row,
                revenue=revenue.get((value, experiment, arm), {}),
            )
        )
    return lines


def _counts_sql(dimension: str) -> str:
    keys, source = _keys_and_source(dimension)
    # An answer without items has no position.
    where = "in_period AND item_id IS NOT NULL" if dimension == "position" else "in_period"
    return (
        f"SELECT *, {_RATES} FROM (SELECT {keys}, {_COUNTS} FROM {source} WHERE {where} "
        "GROUP BY value, experiment, arm) ORDER BY value, experiment, arm"
    )


def _revenue_sql(dimension: str) -> str:
    keys, source = _keys_and_source(dimension)
    return f"""
        SELECT {keys}, currency, sum(paid) AS revenue
        FROM {source} JOIN paid ON paid.request_id = facts.request_id AND paid.item_id = facts.item_id
        WHERE in_period
        GROUP BY ALL ORDER BY ALL
    """


def _keys_and_source(dimension: str) -> tuple[str, str]:
    if dimension in _OF_ARMS:
        exposed = "(SELECT request_id, experiment, arm FROM exposures WHERE exposed) AS exposure"
        return f"{DIMENSIONS[dimension]} AS value, experiment, arm", f"facts JOIN {exposed} USING (request_id)"
    return f"{DIMENSIONS[dimension]} AS value, '' AS experiment, '' AS arm", "facts"


def currencies(lines: Sequence[Line]) -> list[str]:
    """The currencies of some lines, sorted."""
    return sorted({currency for line in lines for currency in line.revenue})
