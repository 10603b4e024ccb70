"""Each event beside the item that it is owed to, in DuckDB over the Parquet files of the two archives. The only module
of this folder that imports duckdb.

An event that names an answer (`request_id`) is owed to that answer's item, or to none; one that names no answer is owed
to the newest answer that showed the item to the same user. Either within the window. Why an event is owed to none:

| `match`            | the event                                                                            |
| ------------------ | ------------------------------------------------------------------------------------ |
| `by_request`       | names the answer that showed the item                                                |
| `by_user_and_item` | names no answer, and the user was shown the item before                              |
| `answer_unknown`   | names an answer without an impression: not sampled, dropped, or of another system    |
| `of_another_user`  | names an answer that another user got; an anonymous answer may become anybody's      |
| `item_not_shown`   | names an answer that did not hold the item                                           |
| `outside_window`   | names an answer that was sent too long before, or afterwards                         |
| `nothing_shown`    | names no answer, and within the window no recorded answer showed the user the item   |

Tables that the other modules read: `answers` (one row each), `facts` (one row for each item shown, with what came of
it, and one with `item_id` NULL for an answer without items; `is_first` holds for one row of each answer), `attributed`
(one row for each event that counts), `paid` (one row for each item shown that was paid for, and currency), `exposures`
(one row for each answer and experiment).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import duckdb

from feature_sync.attribution.question import MICROSECONDS, Question
from feature_sync.core.errors import ArchiveUnreadable
from tandem.contract import names

OWED: Final = ("by_request", "by_user_and_item")
"""Values of `match` of events that are owed to an item."""
NOT_OWED: Final = ("answer_unknown", "of_another_user", "item_not_shown", "outside_window", "nothing_shown")

ARM_UNAVAILABLE: Final = "arm_unavailable"
"""Of an answer's `degraded_reasons`: the arm could not answer, and control did."""
DEADLINE: Final = "deadline"
"""Of an answer's `degraded_reasons`: too little time was left, and a list from memory answered."""

_CLOCK_US: Final = 300 * MICROSECONDS
"""How far before its answer an event may seem to have happened: callers' clocks differ, and the server accepts times
that are so far ahead."""

_NO_ANSWERS: Final = """
    SELECT ''::VARCHAR AS request_id, 0::BIGINT AS timestamp, ''::VARCHAR AS user_id, ''::VARCHAR AS scenario,
        ''::VARCHAR AS placement, MAP {}::MAP(VARCHAR, VARCHAR) AS context, ''::VARCHAR AS model_version,
        ''::VARCHAR AS variant, ''::VARCHAR AS policy_fingerprint, ''::VARCHAR AS answer_source,
        []::VARCHAR[] AS degraded_reasons,
        []::STRUCT(experiment VARCHAR, arm VARCHAR, exposed BOOLEAN)[] AS assignments,
        0::INTEGER AS first_position, []::VARCHAR[] AS item_ids, 0::BIGINT AS latency_us
    LIMIT 0
"""
_NO_EVENTS: Final = """
    SELECT ''::VARCHAR AS event_id, ''::VARCHAR AS user_id, ''::VARCHAR AS item_id, ''::VARCHAR AS event_type,
        0::DOUBLE AS value, ''::VARCHAR AS currency, 0::BIGINT AS timestamp, ''::VARCHAR AS request_id
    LIMIT 0
"""
_ANSWERS: Final = """
    CREATE TABLE answers AS
    SELECT DISTINCT ON (request_id) request_id, timestamp AS shown_at, user_id,
        coalesce(nullif(user_id, ''), context[$session_key]) AS unit,
        scenario, placement, model_version, variant, policy_fingerprint, answer_source, assignments, first_position,
        item_ids, latency_us, len(degraded_reasons) > 0 AS is_degraded,
        list_contains(degraded_reasons, $arm_unavailable) AS lacks_arm,
        list_contains(degraded_reasons, $deadline) AS is_from_memory,
        timestamp >= $start AND timestamp < $end AS in_period
    FROM ({source})
    WHERE timestamp >= $read_from AND timestamp < $read_until
"""
_SHOWN: Final = """
    CREATE TABLE shown AS
    SELECT request_id, unnest(item_ids) AS item_id, first_position + generate_subscripts(item_ids, 1) - 1 AS position
    FROM answers
"""
_OUTCOMES: Final = """
    CREATE TABLE outcomes AS
    SELECT DISTINCT ON (event_id) event_id, user_id, item_id, event_type, value, coalesce(currency, '') AS currency,
        timestamp AS occurred_at, request_id
    FROM ({source})
    WHERE event_type <> 'impression' AND timestamp >= $read_from AND timestamp < $read_until
"""
_IS_OWED: Final = f"match IN {OWED}"
_ATTRIBUTED: Final = f"""
    CREATE TABLE attributed AS
    WITH named AS (
        SELECT o.*, a.shown_at, a.in_period, s.position,
            CASE
                WHEN a.request_id IS NULL THEN 'answer_unknown'
                WHEN a.user_id NOT IN ('', o.user_id) THEN 'of_another_user'
                WHEN s.item_id IS NULL THEN 'item_not_shown'
                WHEN o.occurred_at < a.shown_at - $clock OR o.occurred_at > a.shown_at + $window THEN 'outside_window'
                ELSE 'by_request'
            END AS match
        FROM outcomes o
            LEFT JOIN answers a ON a.request_id = o.request_id
            LEFT JOIN (SELECT DISTINCT ON (request_id, item_id) * FROM shown) s
                ON s.request_id = o.request_id AND s.item_id = o.item_id
        WHERE o.request_id <> ''
    ), seen AS (
        SELECT a.user_id, s.item_id, a.shown_at, a.request_id, a.in_period, s.position
        FROM shown s JOIN answers a USING (request_id)
        WHERE a.user_id <> ''
    ), unnamed AS (
        SELECT o.* REPLACE (s.request_id AS request_id), s.shown_at, s.in_period, s.position,
            CASE WHEN s.shown_at >= o.occurred_at - $window THEN 'by_user_and_item' ELSE 'nothing_shown' END AS match
        FROM outcomes o ASOF LEFT JOIN seen s
            ON s.user_id = o.user_id AND s.item_id = o.item_id AND s.shown_at <= o.occurred_at
        WHERE o.request_id = ''
    )
    SELECT event_id, user_id, item_id, event_type, value, currency, occurred_at, match,
        CASE WHEN is_owed THEN request_id END AS request_id,
        CASE WHEN is_owed THEN position END AS position,
        CASE WHEN is_owed THEN (occurred_at - shown_at) / 1e6 END AS seconds_after,
        CASE WHEN is_owed THEN in_period ELSE occurred_at >= $start AND occurred_at < $end END AS in_period
    FROM (SELECT *, {_IS_OWED} AS is_owed FROM (SELECT * FROM named UNION ALL BY NAME SELECT * FROM unnamed))
"""
_FACTS: Final = f"""
    CREATE TABLE facts AS
    WITH owed AS (
        SELECT request_id, item_id,
            count(*) FILTER (event_type = 'click') AS clicks,
            count(*) FILTER (event_type = 'add_to_cart') AS add_to_carts,
            count(*) FILTER (event_type = 'purchase') AS purchases,
            count(*) FILTER (event_type = 'rating') AS ratings,
            coalesce(sum(value) FILTER (event_type = 'dwell'), 0) / 1000 AS dwell_seconds
        FROM attributed WHERE {_IS_OWED}
        GROUP BY request_id, item_id
    )
    SELECT a.* EXCLUDE (item_ids, first_position, assignments), s.item_id, s.position,
        coalesce(s.position = a.first_position, true) AS is_first,
        strftime(make_timestamp(a.shown_at), '%Y-%m-%d') AS day,
        coalesce(o.clicks, 0) AS clicks, coalesce(o.add_to_carts, 0) AS add_to_carts,
        coalesce(o.purchases, 0) AS purchases, coalesce(o.ratings, 0) AS ratings,
        coalesce(o.dwell_seconds, 0) AS dwell_seconds
    FROM answers a
        LEFT JOIN shown s USING (request_id)
        LEFT JOIN owed o ON o.request_id = s.request_id AND o.item_id = s.item_id
"""
_PAID: Final = f"""
    CREATE TABLE paid AS
    SELECT request_id, item_id, currency, sum(value) AS paid
    FROM attributed WHERE event_type = 'purchase' AND currency <> '' AND {_IS_OWED}
    GROUP BY ALL
"""
_EXPOSURES: Final = """
    CREATE TABLE exposures AS
    SELECT request_id, arm.experiment AS experiment, arm.arm AS arm, arm.exposed AS exposed
    FROM (SELECT request_id, unnest(assignments) AS arm FROM answers)
"""


class Database:
    """The joined archives, as tables."""

    def __init__(self, question: Question, spill_folder: Path) -> None:
        """Reads and joins the archives; what does not fit into memory is written to `spill_folder`. Raises
        ArchiveUnreadable."""
        self._connection = duckdb.connect(config={"temp_directory": str(spill_folder)})
        self._connection.execute("SET TimeZone = 'UTC'; SET preserve_insertion_order = false")
        answers = _source(question.impressions, question, _NO_ANSWERS)
        events = _source(question.events, question, _NO_EVENTS)
        reasons = {"arm_unavailable": ARM_UNAVAILABLE, "deadline": DEADLINE}
        period = {"start": question.start_us, "end": question.end_us}
        read = {"read_from": question.read_from_us, "read_until": question.read_until_us}
        try:
            self._run(
                _ANSWERS.replace("{source}", answers),
                {"session_key": question.session_key, **reasons, **period, **read},
            )
            self._run(_SHOWN)
            self._run(_OUTCOMES.replace("{source}", events), read)
            self._run(_ATTRIBUTED, {"clock": _CLOCK_US, "window": question.window_us, **period})
            self._run(_FACTS)
            self._run(_PAID)
            self._run(_EXPOSURES)
        except duckdb.Error as error:
            self._connection.close()
            raise ArchiveUnreadable(f"{question.impressions} or {question.events}: {_one_line(error)}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._connection.close()

    def rows(self, sql: str, parameters: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """Rows of a query, by column."""
        result = self._connection.execute(sql, parameters)
        columns = [column[0] for column in result.description or ()]
        return [dict(zip(columns, row, strict=True)) for row in result.fetchall()]

    def table(self, sql: str, parameters: dict[str, Any] | None = None) -> Any:
        """The result of a query as an Arrow table."""
        return self._connection.sql(sql, params=parameters).to_arrow_table()

    def write(self, sql: str, path: Path) -> None:
        """Writes the result of a query as a Parquet file. Raises OSError."""
        try:
            self._connection.execute(f"COPY ({sql}) TO {quoted(str(path))} (FORMAT parquet, COMPRESSION zstd)")
        except duckdb.Error as error:
            # DuckDB says the system's reason within a text of its own.
            if os.strerror(errno.ENOSPC) in str(error):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
            raise OSError(errno.EIO, _one_line(error), str(path)) from error

    def _run(self, sql: str, parameters: dict[str, Any] | None = None) -> None:
        self._connection.execute(sql, parameters)


def _source(folder: Path, question: Question, empty: str) -> str:
    """SQL of the rows of an archive: what was applied on the day before the first answer or later."""
    first = datetime.fromtimestamp(question.read_from_us / MICROSECONDS, UTC) - timedelta(days=1)
    first_name = f"{names.DAY_PARTITION}{first.date().isoformat()}"
    days = [day for day in sorted(folder.glob(f"{names.DAY_PARTITION}*")) if day.name >= first_name]
    files = [file for day in days for file in sorted(day.glob("[0-9]*.parquet"))]
    if not files:
        return empty
    read = f"SELECT * FROM read_parquet({_listed(files)}, union_by_name = true, hive_partitioning = false)"
    # Columns that no file has are there all the same.
    return f"{read} UNION ALL BY NAME SELECT * FROM ({empty})"


def _listed(files: Sequence[Path]) -> str:
    return f"[{', '.join(quoted(str(file)) for file in files)}]"


def quoted(text: str) -> str:
    """A text as SQL."""
    return "'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """The name of a column as SQL."""
    return '"' + name.replace('"', '""') + '"'


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
