"""The users of an experiment, one row for each user and arm, as `feature_sync.statistics.plan` describes them.

Only answers by the arm itself count (`exposed`), but for `errors` and `requests`: an answer that the arm could not give
is an error of the arm, and so is one from memory because time was short. The unit is the user, of an anonymous one the
session; answers that name neither are left out and counted. What a user did before is counted up to the user's first
exposure.

`tail_impressions` counts shown items outside of the head, the shortest list of most shown items that makes up half of
all impressions of all arms. An arm weighs there as its number of users, not as its impressions: otherwise the items of
an arm whose users come more often would be the head, and the arm would seem to have less of a tail.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from feature_sync.attribution.database import Database, identifier, quoted
from feature_sync.attribution.question import SLOW_MS

REVENUE: Final = "revenue"
_BEFORE: Final = "_before"
_LATENCY: Final = "latency_ms"
_SLOW: Final = "slow_answers"
_TAIL: Final = "tail_impressions"


@dataclass(frozen=True, kw_only=True)
class ExperimentUsers:
    """The users of one experiment."""

    experiment: str
    arms: tuple[str, ...]
    """Arms that were exposed, sorted."""
    table: Any
    """Arrow table, a row for each (user, arm)."""
    first_exposed: int
    """Microseconds since 1970."""
    answers_without_user: int
    currencies: tuple[str, ...]
    """Of what its users paid. With several, the table has `revenue_EUR`, ... in place of `revenue`."""


def experiments(database: Database) -> list[str]:
    """Names of the experiments with exposures in the period, sorted."""
    rows = database.rows(
        "SELECT DISTINCT experiment FROM exposures JOIN answers USING (request_id) WHERE exposed AND in_period "
        "ORDER BY experiment"
    )
    return [row["experiment"] for row in rows]


def experiment_users(database: Database, experiment: str, *, slow_ms: float = SLOW_MS) -> ExperimentUsers:
    """The table of an experiment's users; `slow_answers` took longer than `slow_ms`. Without any known latency it has
    no columns of latencies, and where the head is all that was shown, no `tail_impressions`."""
    named = {"experiment": experiment}
    currencies = tuple(row["currency"] for row in database.rows(_CURRENCIES, named))
    table = database.table(_table_sql(currencies), {**named, "slow_us": 1000 * slow_ms})
    if table.column(_LATENCY).null_count == table.num_rows:
        table = table.drop_columns([_LATENCY, _SLOW])
    if not any(table.column(_TAIL).to_pylist()):
        table = table.drop_columns([_TAIL])
    ((without,),) = (tuple(row.values()) for row in database.rows(_WITHOUT_USER, named))
    first: list[int] = table.column("first_exposed").to_pylist()
    return ExperimentUsers(
        experiment=experiment,
        arms=tuple(sorted(set(table.column("arm").to_pylist()))),
        table=table,
        first_exposed=min(first, default=0),
        answers_without_user=without,
        currencies=currencies,
    )


def revenue_columns(currencies: tuple[str, ...]) -> dict[str, str]:
    """The column of the table for each currency."""
    if len(currencies) <= 1:
        return dict.fromkeys(currencies, REVENUE)
    return {currency: f"{REVENUE}_{currency}" for currency in currencies}


_EXPOSED: Final = """
    SELECT facts.*, arm FROM facts JOIN exposures USING (request_id)
    WHERE experiment = $experiment AND exposed AND in_period
"""
_CURRENCIES: Final = f"""
    SELECT DISTINCT currency FROM ({_EXPOSED}) AS exposed JOIN paid USING (request_id, item_id) ORDER BY 1
"""
_WITHOUT_USER: Final = f"""
    SELECT count(DISTINCT request_id) FROM ({_EXPOSED}) WHERE unit IS NULL
"""
_ASSIGNED: Final = """
    SELECT unit, arm, count(*) FILTER (exposed OR lacks_arm) AS requests,
        count(*) FILTER (CASE WHEN exposed THEN is_from_memory ELSE lacks_arm END) AS errors,
        avg(latency_us) FILTER (exposed) / 1000 AS mean_ms,
        avg((latency_us > $slow_us)::INTEGER) FILTER (exposed) AS slow_share
    FROM exposures JOIN answers USING (request_id)
    WHERE experiment = $experiment AND in_period AND unit IS NOT NULL
    GROUP BY unit, arm
"""
_HEAD: Final = """
    WITH arms AS (
        SELECT arm, count(DISTINCT unit) / count(item_id) AS weight FROM exposed GROUP BY arm HAVING count(item_id) > 0
    ), items AS (
        SELECT item_id, sum(weight) AS weight FROM exposed JOIN arms USING (arm)
        WHERE item_id IS NOT NULL GROUP BY item_id
    ), ranked AS (
        SELECT item_id, sum(weight) OVER (ORDER BY weight DESC, item_id) - weight AS weight_before,
            sum(weight) OVER () AS total
        FROM (SELECT item_id, round(weight, 6) AS weight FROM items)
    )
    SELECT item_id FROM ranked WHERE weight_before < total * (0.5 - 1e-9)
"""
_TOTALS: Final = """
    count(item_id) AS impressions{suffix},
    count(*) FILTER (clicks > 0) AS clicks{suffix},
    count(*) FILTER (add_to_carts > 0) AS add_to_carts{suffix},
    coalesce(sum(purchases), 0)::BIGINT AS purchases{suffix},
    coalesce(max((purchases > 0)::INTEGER), 0) AS converted{suffix},
    coalesce(sum(dwell_seconds), 0) AS dwell_seconds{suffix}
"""


def _table_sql(currencies: tuple[str, ...]) -> str:
    """The `_before` columns are NULL for a user of whom nothing was recorded before."""
    columns = revenue_columns(currencies) or {"": REVENUE}

    def sums(suffix: str) -> str:
        return ", ".join(
            f"coalesce(sum(paid) FILTER (currency = {quoted(code)}), 0) AS {identifier(column + suffix)}"
            for code, column in columns.items()
        )

    names = [identifier(column) for column in columns.values()]
    names_before = [identifier(column + _BEFORE) for column in columns.values()]
    paid = ", ".join(f"coalesce(revenue.{name}, 0) AS {name}" for name in names)
    paid_before = ", ".join(
        f"CASE WHEN before.unit IS NOT NULL THEN coalesce(revenue_before.{name}, 0) END AS {name}"
        for name in names_before
    )
    return f"""
        WITH exposed AS ({_EXPOSED} AND unit IS NOT NULL),
        assigned AS ({_ASSIGNED}),
        head AS ({_HEAD}),
        totals AS (
            SELECT unit, arm, min(shown_at) AS first_exposed, count(DISTINCT request_id) AS answers,
                count(DISTINCT request_id) FILTER (is_degraded) AS degraded_answers,
                count(DISTINCT item_id) AS distinct_items,
                count(item_id) FILTER (item_id NOT IN (SELECT item_id FROM head)) AS {_TAIL},
                {_TOTALS.format(suffix="")}
            FROM exposed GROUP BY unit, arm
        ), revenue AS (
            SELECT unit, arm, {sums("")}
            FROM exposed JOIN paid USING (request_id, item_id) GROUP BY unit, arm
        ), earlier AS (
            SELECT facts.*, totals.arm FROM facts JOIN totals USING (unit) WHERE facts.shown_at < totals.first_exposed
        ), before AS (
            SELECT unit, arm, {_TOTALS.format(suffix=_BEFORE)} FROM earlier GROUP BY unit, arm
        ), revenue_before AS (
            SELECT unit, arm, {sums(_BEFORE)}
            FROM earlier JOIN paid USING (request_id, item_id) GROUP BY unit, arm
        )
        SELECT totals.unit AS user_id, totals.* EXCLUDE (unit), assigned.requests, assigned.errors,
            -- Answers whose latency is not known count as the user's others.
            assigned.mean_ms * totals.answers AS {_LATENCY}, assigned.slow_share * totals.answers AS {_SLOW},
            {paid}, before.* EXCLUDE (unit, arm), {paid_before}
        FROM totals JOIN assigned USING (unit, arm) LEFT JOIN revenue USING (unit, arm)
            LEFT JOIN before USING (unit, arm) LEFT JOIN revenue_before USING (unit, arm)
        ORDER BY user_id, arm
    """
