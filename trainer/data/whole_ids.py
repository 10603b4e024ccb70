"""Ids that another program wrote as floating-point numbers: 10.0 and 1e+05 become "10" and "100000".

pandas writes integer ids as 10.0 when some are missing, R writes 100000 as 1e+05. Only a column whose ids are all whole
numbers is read in this way; "1.0" beside "1.1" is the name of a version, and stays.
"""

from __future__ import annotations

from collections.abc import Iterator
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
_FILES: Final = {names.USER_ID: ("interactions", "users"), names.ITEM_ID: ("interactions", "items")}
"""Column -> the staged files with such ids."""


def with_whole_ids(reader: DuckDBEngine, staged: StagedData) -> StagedData:
    """The staged files, in which ids that are whole numbers are written as integers.

    Where an id with a fraction has to stay, in a column whose ids are not all numbers, or because it came through the
    API, no file changes: the ids would not join.
    """
    for column, files in _FILES.items():
        tables: dict[str, Any] = {name: file for name in files if (file := getattr(staged, name)) is not None}
        counts = {name: _counts(reader, file.good(reader), column) for name, file in tables.items()}
        changed = [name for name, (num_others, num_fractions) in counts.items() if num_fractions and not num_others]
        kept = any(num_fractions for name, (_, num_fractions) in counts.items() if name not in changed)
        if (
            changed
            and not kept
            and not any(_counts(reader, rows, column)[1] for rows in _of_api(reader, staged, column))
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


def _counts(reader: DuckDBEngine, rows: Any, column: str) -> tuple[int, int]:
    """Returns (number of ids that are neither whole numbers nor words for "missing", number of ids with a fraction)."""
    ids = rows[column]
    fraction = _has_fraction(ids)
    other = ~(fraction | ids.re_search(r"^-?[0-9]+$") | ids.lower().isin(MISSING_WORDS))
    (found,) = reader.rows(rows.agg(others=other.sum(), fractions=fraction.sum()))
    return int(found["others"] or 0), int(found["fractions"] or 0)


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
    _, num_changed = _counts(reader, file.good(reader), column)
    num_noted = file.report.noted.get(kinds.WHOLE_NUMBER_ID, 0) + num_changed
    noted = {**file.report.noted, kinds.WHOLE_NUMBER_ID: num_noted}
    return replace(file, path=path, report=replace(file.report, noted=noted))
