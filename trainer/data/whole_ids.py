"""Ids that another program wrote as floating-point numbers: 10.0 and 1e+05 become "10" and "100000".

pandas writes integer ids as 10.0 when some are missing, R writes 100000 as 1e+05. Only a column whose ids are all whole
numbers is read in this way; "1.0" beside "1.1" is the name of a version, and stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

import ibis

from tandem.contract import names
from trainer.data import report as kinds
from trainer.data.clean import StagedData
from trainer.data.duckdb_engine import DuckDBEngine
from trainer.data.missing import MISSING_WORDS
from trainer.data.stage import Staged

_WITH_ZEROS: Final = r"^-?[0-9]+\.0+$"
_WITH_EXPONENT: Final = r"^-?[0-9](\.[0-9]+)?[eE]\+[0-9]{1,2}$"
"""With a sign, as every program writes it: "12e45" is a hexadecimal id."""
_LARGEST_EXACT: Final = 1 << 53
_COLUMNS: Final = {
    "interactions": (names.USER_ID, names.ITEM_ID),
    "users": (names.USER_ID,),
    "items": (names.ITEM_ID,),
}
"""Staged file -> its columns of ids."""


def with_whole_ids(reader: DuckDBEngine, staged: StagedData) -> StagedData:
    """The staged files, in which ids that are whole numbers are written as integers.

    Where an id with a fraction has to stay, in a column whose ids are not all numbers, or because it came through the
    API, no file changes: the ids would not join.
    """
    found = {
        name: _counts(reader, file.good(reader), columns)
        for name, columns in _COLUMNS.items()
        if (file := getattr(staged, name)) is not None
    }
    for column in (names.USER_ID, names.ITEM_ID):
        tables: dict[str, Any] = {name: getattr(staged, name) for name in found if column in _COLUMNS[name]}
        counts = {name: found[name][column] for name in tables}
        changed = [name for name, (num_others, num_fractions) in counts.items() if num_fractions and not num_others]
        kept = any(num_fractions for name, (_, num_fractions) in counts.items() if name not in changed)
        if (
            changed
            and not kept
            and not any(_counts(reader, rows, (column,))[column][1] for rows in _of_api(reader, staged, column))
        ):
            rewritten: dict[str, Any] = {name: _rewritten(reader, tables[name], column) for name in changed}
            staged = replace(staged, **rewritten)
    return staged


def _of_api(reader: DuckDBEngine, staged: StagedData, column: str) -> Iterator[Any]:
    """Rows whose ids came through the API."""
    if staged.events is not None:
        yield staged.events.good(reader)
    if staged.item_changes is not None and column == names.ITEM_ID:
        yield reader.read(staged.item_changes.path)


def _counts(reader: DuckDBEngine, rows: Any, columns: Sequence[str]) -> dict[str, tuple[int, int]]:
    """By column: (number of ids that are neither whole numbers nor words for "missing", of those with a fraction)."""
    numbers: dict[str, Any] = {}
    for column in columns:
        ids = rows[column]
        fraction = _has_fraction(ids)
        other = ~(fraction | ids.re_search(r"^-?[0-9]+$") | ids.lower().isin(MISSING_WORDS))
        numbers |= {f"{column}_others": other.sum(), f"{column}_fractions": fraction.sum()}
    (row,) = reader.rows(rows.agg(**numbers))
    return {column: (int(row[f"{column}_others"] or 0), int(row[f"{column}_fractions"] or 0)) for column in columns}


def _has_fraction(ids: Any) -> Any:
    """Whether an id is a whole number that is written with a fraction or an exponent."""
    number = ids.try_cast("float64")
    by_exponent = ids.re_search(_WITH_EXPONENT) & (number == number.try_cast("int64")) & (number.abs() < _LARGEST_EXACT)
    return (ids.re_search(_WITH_ZEROS) | by_exponent).fill_null(False)


def _rewritten(reader: DuckDBEngine, file: Staged, column: str) -> Staged:
    rows = reader.read(file.path)
    ids = rows[column]
    whole = ibis.cases(
        (ids.re_search(_WITH_ZEROS), ids.re_extract(r"^(-?[0-9]+)\.", 1)),
        (_has_fraction(ids), ids.try_cast("float64").cast("int64").cast("string")),
        else_=ids,
    )
    path = file.path.with_name(f"{file.path.stem}_whole_{column}.parquet")
    reader.write(rows.mutate(whole.name(column)), path)
    _, num_changed = _counts(reader, file.good(reader), (column,))[column]
    num_noted = file.report.noted.get(kinds.WHOLE_NUMBER_ID, 0) + num_changed
    noted = {**file.report.noted, kinds.WHOLE_NUMBER_ID: num_noted}
    return replace(file, path=path, report=replace(file.report, noted=noted))
