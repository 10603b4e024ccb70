"""Times of a source as microseconds since 1970, from a number in some unit or from ISO 8601."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import ibis

from trainer.data.config import TimestampUnit
from trainer.data.duckdb_engine import duckdb_function

END_OF_TIME_SECONDS: Final = 4_102_444_800
"""2100-01-01: a later time has the wrong unit."""
_PER_SECOND: Final[Mapping[str, int]] = {
    "seconds": 1,
    "milliseconds": 1_000,
    "microseconds": 1_000_000,
    "nanoseconds": 1_000_000_000,
}
_COMPACT: Final = r"^(19|20)[0-9]{6}([0-9]{6})?$"
"""A date without separators, with or without a time. As a number of any unit it would be a time in 1970."""
_REWRITTEN: Final = (
    # DuckDB reads 2019-11-01 10:00:00.123456789+01:00; each of these brings another form of ISO 8601 nearer to it.
    (r"^([0-9]{4})-?([0-9]{2})-?([0-9]{2})[Tt ]?", r"\1-\2-\3 "),
    (r"^(.{11}[0-9]{2})([0-9]{2})([0-9]{2})", r"\1:\2:\3"),
    (r"^(.{11}[0-9]{2})([0-9]{2})", r"\1:\2"),
    (r"^(.{11}[0-9]{2})([Zz+-].*)?$", r"\1:00\2"),
    (r"^(.{11})([Zz+-].*)$", r"\1" "00:00" r"\2"),
    (r"(:[0-9]{2}),([0-9])", r"\1.\2"),
    (r"(\.[0-9]{9})[0-9]+", r"\1"),
    (r"z$", "Z"),
    (r"\x{2212}", "-"),
    (r" ?([+-][0-9:]+)(\[[^\]]*\])?$", r"\1"),
    (r" $", ""),
)
_WEEK_DATE: Final = r"^([0-9]{4})-?W([0-9]{2})(?:-?([0-9]))?($|[TtZz ].*)"
"""2024-W05-3 is the third day of the fifth week; without the last number, the week's first day is meant."""
_ORDINAL_DATE: Final = r"^([0-9]{4})-?([0-9]{3})($|[TtZz ].*)"
"""2024-035 is the 35th day of the year."""
_LEAP_SECOND: Final = r"^(.{11}[0-9]{2}:59:)60"

_strptime = duckdb_function("try_strptime", ("string", "string"), "timestamp")
_strftime = duckdb_function("strftime", ("timestamp", "string"), "string")
_epoch_us = duckdb_function("epoch_us", ("timestamp('UTC')",), "int64")


def microseconds(text: Any, unit: TimestampUnit) -> Any:
    """Text -> int64 microseconds since 1970; null unless it is a time from 1970 to 2100. Times without an offset are
    UTC.

    The unit "auto" takes a number for seconds, else for the next smaller unit, and so on, until it is a time from 1970
    to 2100. A number of milliseconds could be one of seconds only before 1970-02-17.
    """
    if unit == "iso":
        return _of_iso(text)
    if unit != "auto":
        return _of_number(text, unit)
    by_size = ibis.coalesce(*(_of_number(text, each) for each in _PER_SECOND))
    return ibis.cases((text.re_search(_COMPACT), _of_iso(text)), else_=ibis.coalesce(by_size, _of_iso(text)))


def _of_number(text: Any, unit: str) -> Any:
    per_second = _PER_SECOND[unit]
    number = text.try_cast("float64")
    in_range = number.between(0, END_OF_TIME_SECONDS * per_second)
    if unit == "nanoseconds":
        # float64 does not hold nanoseconds since 1970 exactly; an int64 does until the year 2262.
        whole = text.try_cast("int64")
        return ibis.cases(
            (in_range, ibis.coalesce((whole - whole % 1_000) // 1_000, (number / 1_000).try_cast("int64")))
        )
    # float64 is exact here: microseconds stay below 2^53 until the year 2255.
    return ibis.cases((in_range, (number * (1_000_000 // per_second)).round().try_cast("int64")))


def _of_iso(text: Any) -> Any:
    rewritten = dated = _with_month_and_day(text)
    for pattern, replacement in _REWRITTEN:
        rewritten = rewritten.re_replace(pattern, replacement)
    # As in Unix time, a leap second is the first second of the next day.
    added = rewritten.re_search(_LEAP_SECOND).cast("int64") * 1_000_000
    rewritten = rewritten.re_replace(_LEAP_SECOND, r"\159")
    # DuckDB alone would also read "epoch", and days whose order depends on the country.
    times = (
        ibis.cases((text.re_search(r"^[0-9]{4}[-/]"), _epoch_us(text.try_cast("timestamp('UTC')")))),
        ibis.cases(
            (
                dated.re_search(r"^[0-9]{4}-?[0-9]{2}-?[0-9]{2}"),
                _epoch_us(rewritten.try_cast("timestamp('UTC')")) + added,
            )
        ),
    )
    time = ibis.coalesce(*times)
    return ibis.cases((time.between(0, END_OF_TIME_SECONDS * 1_000_000), time))


def _with_month_and_day(text: Any) -> Any:
    """Text whose date is a week date or an ordinal date, with year, month and day instead; other text as it is."""
    day = ibis.coalesce(text.re_extract(_WEEK_DATE, 3).nullif(""), "1")
    week = text.re_extract(_WEEK_DATE, 1) + "-" + text.re_extract(_WEEK_DATE, 2) + "-" + day
    ordinal = text.re_extract(_ORDINAL_DATE, 1) + "-" + text.re_extract(_ORDINAL_DATE, 2)
    return ibis.cases(
        (text.re_search(_WEEK_DATE), _date(week, "%G-%V-%u") + text.re_extract(_WEEK_DATE, 4)),
        (text.re_search(_ORDINAL_DATE), _date(ordinal, "%Y-%j") + text.re_extract(_ORDINAL_DATE, 3)),
        else_=text,
    )


def _date(text: Any, form: str) -> Any:
    """YYYY-MM-DD of a date in DuckDB's notation `form`; null if there is none, as of week 53 in most years."""
    time = _strptime(text, ibis.literal(form))
    return ibis.cases((_strftime(time, ibis.literal(form)) == text, time.date().cast("string")))
