"""SQL that derives feature rows of the past from prepared data and from the archive of events and catalogue changes.

Every row has `known_at`, the microsecond from which its values were known. Correct joins in time depend on it, so rows
are dated as follows:

| rows                   | dated by                                                                                    |
| ---------------------- | ------------------------------------------------------------------------------------------- |
| counts                 | the receipt of an archived event, never before it happened; the own time of an interaction  |
| profiles, from data    | the microsecond before the entity's first event                                             |
| profiles, from changes | the change                                                                                  |

Counts have one row per entity and moment. The data do not say when a profile became known; it is assumed known before
the first event, as a catalogue exists before its first click.

Prepared data may already contain archived events; they are counted once, dated by their receipt. Popularity is left
empty here: as a count over the training data, it became known only with the model.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tandem.contract import names
from tandem.contract.deleted_users import NOBODY, DeletedUsers

EVENTS: Final = "events"
"""The name under which `events_sql` is registered; the other queries read it."""

_EVENT: Final = (names.USER_ID, names.ITEM_ID, names.EVENT_TYPE, names.TIMESTAMP)


def events_sql(interactions: Path, archive: Path, *, deleted: DeletedUsers = NOBODY) -> str:
    """Every event of the data and of the archive, each once, with its `known_at`; events without a time are left
    out, and what `deleted` users did up to their deletion."""
    columns = ", ".join(_EVENT)
    return f"""
        WITH archived AS (
            SELECT {columns}, greatest({names.RECEIVED_AT}, {names.TIMESTAMP}) AS {names.KNOWN_AT}
            FROM {
        _archived(
            archive, {**dict.fromkeys(_EVENT[:3], "VARCHAR"), names.TIMESTAMP: "BIGINT", names.RECEIVED_AT: "BIGINT"}
        )
    }
        )
        SELECT {columns}, {names.TIMESTAMP} AS {names.KNOWN_AT}
        FROM {parquet_files(interactions)} AS prepared ANTI JOIN archived USING ({columns})
        WHERE {names.TIMESTAMP} > 0 AND {_not_left_out(deleted, names.TIMESTAMP)}
        UNION ALL BY NAME
        SELECT * FROM archived WHERE {_not_left_out(deleted, names.TIMESTAMP)}
    """


def counts_sql(entity: str) -> str:
    """Event counts by type: one row for every entity and every moment at which one of its events became known."""
    at_once = ", ".join(
        f"count(*) FILTER ({names.EVENT_TYPE} = '{kind}') AS {column}"
        for kind, column in zip(names.EVENT_TYPES, names.EVENT_COUNTS, strict=True)
    )
    so_far = ", ".join(f"(sum({column}) OVER so_far)::BIGINT AS {column}" for column in names.EVENT_COUNTS)
    return f"""
        SELECT {entity}, {so_far}, {names.KNOWN_AT}
        FROM (SELECT {entity}, {names.KNOWN_AT}, {at_once} FROM {EVENTS} GROUP BY ALL)
        WINDOW so_far AS (PARTITION BY {entity} ORDER BY {names.KNOWN_AT})
    """


def user_profile_sql(users: Path, *, deleted: DeletedUsers = NOBODY) -> str:
    """Demographics of the data; those of `deleted` users, which have no time, are left out."""
    return (
        f"SELECT users.*, {_before_first_event(names.USER_ID)} FROM {parquet_files(users)} AS users "
        f"WHERE {_not_left_out(deleted)}"
    )


def item_profile_sql(items: Path, changes: Path) -> str:
    """Titles, categories and attributes of the data, then those of every change."""
    columns = {
        names.ITEM_ID: "VARCHAR",
        names.TITLE: "VARCHAR",
        names.CATEGORIES: "VARCHAR[]",
        names.ATTRIBUTES: "MAP(VARCHAR, VARCHAR)",
        names.AVAILABLE: "BOOLEAN",
        names.DELETED: "BOOLEAN",
        names.SEQUENCE: "BIGINT",
        names.CHANGED_AT: "BIGINT",
    }
    described = f"""{names.ITEM_ID}, {names.TITLE}, {names.CATEGORIES},
        to_json(map_from_entries(list_sort(map_entries({names.ATTRIBUTES}))))::VARCHAR AS {names.ATTRIBUTES}"""
    return f"""
        SELECT {described}, true AS {names.AVAILABLE}, 0 AS {names.CHANGE_SEQUENCE},
            {_before_first_event(names.ITEM_ID)}
        FROM {parquet_files(items)} AS items
        UNION ALL BY NAME
        SELECT {described}, {names.AVAILABLE} AND NOT {names.DELETED} AS {names.AVAILABLE},
            {names.SEQUENCE} AS {names.CHANGE_SEQUENCE}, {names.CHANGED_AT} AS {names.KNOWN_AT}
        FROM {_archived(changes, columns)}
    """


def item_texts_sql(items: Path) -> str:
    """The text fields of every item of the data, and the time from which they are assumed valid."""
    columns = ", ".join((names.ITEM_ID, names.TITLE, names.DESCRIPTION, names.CATEGORIES))
    return f"SELECT {columns}, {_before_first_event(names.ITEM_ID)} FROM {parquet_files(items)} AS items"


def quoted(value: object) -> str:
    """An SQL string literal."""
    return "'" + str(value).replace("'", "''") + "'"


def parquet_files(*paths: Path) -> str:
    """The SQL table of Parquet files: the files of these very names, and their columns alone.

    DuckDB would take `*`, `?` and `[` in a name for a pattern, and a folder named `key=value` for a column.
    """
    listed = ", ".join(quoted(re.sub(r"[*?\[]", r"[\g<0>]", str(path))) for path in paths)
    return f"read_parquet([{listed}], hive_partitioning = false)"


def identifier(name: str) -> str:
    """A quoted SQL identifier for a column."""
    return '"' + name.replace('"', '""') + '"'


def empty_sql(columns: dict[str, str]) -> str:
    """An empty table with these columns; types are by name."""
    nulls = ", ".join(f"NULL::{kind} AS {name}" for name, kind in columns.items())
    return f"SELECT {nulls} WHERE false"


def _not_left_out(deleted: DeletedUsers, time: str = "0") -> str:
    """The SQL condition that a row was not of a deleted user at its time, microseconds; see `deleted_users`."""
    if not deleted:
        return "true"
    times = ", ".join(f"('{digest}', {moment}::BIGINT)" for digest, moment in deleted.times.items())
    found = f"SELECT moment FROM (VALUES {times}) AS deleted(digest, moment) WHERE digest = sha256({names.USER_ID})"
    return f"{time} > coalesce(({found}), -1)"


def _before_first_event(entity: str) -> str:
    first = f"(SELECT min({names.KNOWN_AT}) FROM {EVENTS} WHERE {EVENTS}.{entity} = {_table_of(entity)}.{entity})"
    return f"coalesce({first} - 1, 0) AS {names.KNOWN_AT}"


def _table_of(entity: str) -> str:
    return "users" if entity == names.USER_ID else "items"


def _archived(folder: Path, columns: dict[str, str]) -> str:
    """A table of all complete files of an archive; empty if the archive does not exist yet."""
    # A file whose name begins with a dot or an underscore is still being written.
    paths: Sequence[Path] = sorted(folder.glob(f"{names.DAY_PARTITION}*/[!._]*.parquet"))
    if not paths:
        return f"({empty_sql(columns)})"
    return parquet_files(*paths)
