"""The checks at the end of `prepare`: what looks wrong in data that was read without an error, in words.

A wrong unit of times, ids that do not join, or one user who owns all anonymous rows give a model that trains without an
error and recommends badly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from tandem.contract import names
from tandem.contract.numbers import finite_number
from trainer.data import report as kinds
from trainer.data.check_limits import CheckLimits
from trainer.data.clean import Cleaned, StagedData
from trainer.data.duckdb_engine import DuckDBEngine, duckdb_function
from trainer.data.missing import MISSING_NUMBERS, MISSING_WORDS, is_missing_number

_FEW_ROWS: Final = 20
_SOME_ROWS: Final = 100
_TIMES_OF_AN_EQUAL_SHARE: Final = 10
_NUM_EXAMPLES: Final = 3
_YEAR_MICROSECONDS: Final = 365 * 86_400_000_000
_EXCEL_DAYS: Final = (25_569 * 1_000_000, 73_050 * 1_000_000)
"""Excel's numbers of the days from 1970 to 2099, read as seconds."""
_MOST: Final = 0.5
_NUMERIC_VALUES: Final = 8
"""A feature of more different numbers is cut into ranges."""
_SIMILAR: Final = "case, zeros at the beginning, or how a character is written (see docs/data.md)"
_IN_QUOTES: Final = r"""^(=".*"|'.*'|".*"|“.*”|'[0-9]+)$"""
_PLAINEST: Final = "plainest_id"

_nfc = duckdb_function("nfc_normalize", ("string",), "string")

Level = Literal["warn", "fail"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that looks wrong."""

    check: str
    """Name of the check; its limits are keys of `CheckLimits`."""
    level: Level
    share: float
    """0 to 1, the number that was compared with the limits."""
    text: str
    """What is wrong, and which keys to look at."""

    def __str__(self) -> str:
        return f"{self.level.upper()} {self.check}: {self.text}"


def check(reader: DuckDBEngine, staged: StagedData, cleaned: Cleaned, limits: CheckLimits) -> tuple[Finding, ...]:
    """The findings on prepared data, those that fail the run first."""
    measured = (
        *_joins(reader, staged, cleaned),
        *_ids(reader, staged),
        *_columns(reader, staged, cleaned),
        *_features(reader, staged, cleaned),
    )
    found = [_finding(name, share, text, limits.of(name)) for name, share, text in measured]
    return tuple(sorted((finding for finding in found if finding is not None), key=lambda finding: finding.level))


def findings_text(findings: tuple[Finding, ...]) -> str:
    """The findings as lines of text."""
    return "\n".join(f"check: {finding}" for finding in findings) or "check: nothing looks wrong"


def findings_to_dicts(findings: tuple[Finding, ...]) -> list[dict[str, Any]]:
    """The findings as JSON values."""
    return [asdict(finding) for finding in findings]


_Measured = Iterator[tuple[str, float, str]]
"""(check, share, what to say if the share is too large)."""


def _finding(name: str, share: float, text: str, limits: tuple[float, float]) -> Finding | None:
    warn, fail = limits
    if share < min(warn, fail):
        return None
    level: Level = "fail" if share >= fail else "warn"
    return Finding(check=name, level=level, share=round(share, 6), text=text)


def _joins(reader: DuckDBEngine, staged: StagedData, cleaned: Cleaned) -> _Measured:
    interactions = cleaned.report.file("interactions")
    unmatched = interactions.noted.get(kinds.ITEM_WITHOUT_METADATA, 0)
    if unmatched and staged.items is not None:
        written, known = reader.read(cleaned.files[0]), staged.items.good(reader)
        missing = written.anti_join(known, names.ITEM_ID)
        yield (
            "unmatched_items",
            unmatched / interactions.rows_kept,
            f"{unmatched:,} of {interactions.rows_kept:,} interactions are with an item that is not in "
            f"{staged.items.report.path}: {_examples(reader, missing, names.ITEM_ID)}; its ids are like "
            f"{_examples(reader, known, names.ITEM_ID)}. Compare interactions.item with items.id",
        )
        alike = known.select(_plainest(known[names.ITEM_ID]).name(names.ITEM_ID)).distinct()
        missing = missing.mutate(_plainest(missing[names.ITEM_ID]).name(_PLAINEST))
        joining = missing.semi_join(alike, [(_PLAINEST, names.ITEM_ID)])
        (row,) = reader.rows(joining.agg(rows=joining.count()))
        yield (
            "case_of_ids",
            row["rows"] / interactions.rows_kept,
            f"{row['rows']:,} interactions would have an item in the items file if {_SIMILAR} did not count: "
            f"{_examples(reader, joining, names.ITEM_ID, ascii)}",
        )
    if staged.users is not None:
        without = cleaned.report.file("users").noted.get(kinds.USER_WITHOUT_FEATURES, 0)
        yield (
            "unmatched_users",
            without / cleaned.num_users,
            f"{without:,} of {cleaned.num_users:,} users are not in {staged.users.report.path}, whose ids are like "
            f"{_examples(reader, staged.users.good(reader), names.USER_ID)}. Compare interactions.user with users.id",
        )


def _ids(reader: DuckDBEngine, staged: StagedData) -> _Measured:
    rows, num_rows = staged.interactions.good(reader), staged.interactions.num_good
    if num_rows < _FEW_ROWS:
        return
    for column, name, key in ((names.USER_ID, "user", "one_user"), (names.ITEM_ID, "item", "one_item")):
        counts = rows.group_by(column).agg(num_rows=rows.count())
        (total,) = reader.rows(counts.agg(ids=counts.count(), most=counts["num_rows"].max()))
        words = counts.filter(counts[column].lower().isin((*MISSING_WORDS, *MISSING_NUMBERS)))
        is_absurd = total["most"] / num_rows >= _TIMES_OF_AN_EQUAL_SHARE / total["ids"]
        for row in reader.rows(words.order_by(words["num_rows"].desc(), words[column])):
            # Users may be numbered from 0, so a number needs a share that no other one has.
            if row[column] in MISSING_NUMBERS and not (is_absurd and row["num_rows"] == total["most"]):
                continue
            yield (
                "missing_ids",
                row["num_rows"] / num_rows,
                f"{row['num_rows']:,} of {num_rows:,} rows are of the {name} {row[column]!r}, which looks like a "
                "missing value. If it is one, add it to the list interactions.nulls",
            )
        yield from _spellings(reader, counts, column, name, num_rows)
        if num_rows >= _SOME_ROWS and is_absurd:
            top = reader.rows(counts.order_by(counts["num_rows"].desc(), counts[column]).limit(1))[0]
            yield (
                key,
                top["num_rows"] / num_rows,
                f"{top['num_rows']:,} of {num_rows:,} rows are of the {name} {top[column]!r}",
            )


def _spellings(reader: DuckDBEngine, counts: Any, column: str, name: str, num_rows: int) -> _Measured:
    """Of the ids in `counts`, those in quotes, and those that are probably several spellings of one."""
    quoted = counts.filter(counts[column].re_search(_IN_QUOTES))
    plainest = counts.mutate(_plainest(counts[column]).name(_PLAINEST))
    spellings = plainest.group_by(_PLAINEST).agg(
        ids=plainest.count(),
        num_rows=plainest["num_rows"].sum(),
        first=plainest[column].min(),
        last=plainest[column].max(),
    )
    several = spellings.filter(spellings["ids"] > 1)
    for found, key, text in (
        (quoted, "quoted_ids", f"{name} ids in quotes, which are part of the id: {_examples(reader, quoted, column)}"),
        (several, "similar_ids", f"{name}s whose ids differ only in {_SIMILAR}"),
    ):
        (total,) = reader.rows(found.agg(num_rows=found["num_rows"].sum()))
        if not total["num_rows"]:
            continue
        if key == "similar_ids":
            (pair,) = reader.rows(several.order_by(several["num_rows"].desc(), several["first"]).limit(1))
            text += f": {pair['first']!a} and {pair['last']!a}"
        share = int(total["num_rows"]) / num_rows
        yield key, share, f"{int(total['num_rows']):,} of {num_rows:,} rows are of {text}"


def _plainest(ids: Any) -> Any:
    """Ids without what people and programs often write differently."""
    visible = _nfc(ids.re_replace(r"[\x{200B}-\x{200F}\x{2060}\x{FEFF}\x{AD}]", ""))
    return visible.lower().re_replace(r"^0+([0-9])", r"\1")


def _columns(reader: DuckDBEngine, staged: StagedData, cleaned: Cleaned) -> _Measured:
    interactions = cleaned.report.file("interactions")
    repeated = interactions.dropped.get(kinds.DUPLICATE, 0)
    yield (
        "duplicates",
        repeated / max(1, interactions.rows_kept + repeated),
        f"{repeated:,} rows repeat a user and an item, of which the first is kept; {interactions.rows_kept:,} rows "
        "are left",
    )
    rows = staged.interactions.good(reader)
    times, ratings = rows[names.TIMESTAMP], rows[names.RATING]
    (found,) = reader.rows(
        rows.agg(
            rows=rows.count(),
            first=times.min(),
            last=times.max(),
            in_1970=(times < _YEAR_MICROSECONDS).sum(),
            lowest=ratings.min(),
            highest=ratings.max(),
            rated=ratings.count(),
        )
    )
    if found["rows"] and found["last"]:  # else there are no times
        yield (
            "times_in_1970",
            found["in_1970"] / found["rows"],
            f"{found['in_1970']:,} of {found['rows']:,} times are in 1970; "
            + _why_in_1970(found["in_1970"] / found["rows"], found["first"], found["last"]),
        )
        equal = found["rows"] > 1 and found["first"] == found["last"]
        yield (
            "equal_times",
            float(equal),
            f"all {found['rows']:,} rows have the same time, so only the file orders them",
        )
    constant = found["rated"] >= _FEW_ROWS and found["lowest"] == found["highest"]
    yield "constant_rating", float(constant), f"all {found['rated']:,} ratings are {found['lowest']}"


def _why_in_1970(share: float, first: int, last: int) -> str:
    if share < _MOST:
        return "they are probably missing, cut, or in another unit than the others"
    if _EXCEL_DAYS[0] <= first and last <= _EXCEL_DAYS[1]:
        return "they are probably days as Excel counts them: write dates"
    return 'interactions.timestamp_unit is probably wrong ("auto" finds most units)'


def _features(reader: DuckDBEngine, staged: StagedData, cleaned: Cleaned) -> _Measured:
    if not staged.feature_names:
        return
    users = reader.read(cleaned.files[2])
    for name in staged.feature_names:
        known = users.filter(users[name].notnull())
        counts = known.group_by(name).agg(num_users=known.count())
        values = {row[name]: row["num_users"] for row in reader.rows(counts)}
        missing = {value: count for value, count in values.items() if is_missing_number(value)}
        numbers = [value for value in values if value not in missing]
        words = [value for value in numbers if finite_number(value) is None]
        if words and len(numbers) - len(words) > _NUMERIC_VALUES:
            count = sum(values[word] for word in words)
            yield (
                "words_among_numbers",
                count / cleaned.num_users,
                f"{count:,} of {cleaned.num_users:,} users have no number in the feature {name!r} but "
                f"{_listed(words)}: because of them all of its numbers are words",
            )
        if missing and numbers and all(finite_number(value) is not None for value in numbers):
            count = sum(missing.values())
            yield (
                "missing_numbers",
                count / cleaned.num_users,
                f"{count:,} of {cleaned.num_users:,} users have no number in the feature {name!r} but "
                f"{_listed(list(missing))}; they count as users without a value",
            )


def _examples(reader: DuckDBEngine, rows: Any, column: str, shown: Callable[[str], str] = repr) -> str:
    distinct = rows.select(column).distinct()
    return _listed([row[column] for row in reader.rows(distinct.order_by(column).limit(_NUM_EXAMPLES))], shown)


def _listed(values: list[str], shown: Callable[[str], str] = repr) -> str:
    return ", ".join(shown(value) for value in values[:_NUM_EXAMPLES])
