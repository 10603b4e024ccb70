"""Source files as tables of text, with the line numbers of lines that cannot be parsed.

All columns stay text, so a wrong value is found by cleaning, which counts it, and not by the parser, which would fail.
JSON lines are read as whole lines: DuckDB's own JSON reader drops bad lines without their numbers.
"""

from __future__ import annotations

import bisect
import itertools
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, Final, Literal

import ibis

from trainer.core.errors import ConfigError
from trainer.data.duckdb_engine import DuckDBEngine, quoted
from trainer.data.encodings import UTF_8, proposed_encoding
from trainer.data.line_numbers import blank_lines, lines_at, lines_of_ranks, raw_lines
from trainer.data.plain_text import PlainText, Reject, Text
from trainer.data.unpacking import Packed

ROW: Final = "source_row"
"""Column of every scan: number of the row among the parsed rows, from 1, int64."""
LINE: Final = "source_line"
"""Column of a scan of JSON lines: the unparsed line."""

FILE: Final = "source_file"
"""Column of every scan of files: the path of the file that was read."""
_MAX_REJECT_LENGTH: Final = 2_000
"""Maximum number of characters kept of a refused line: a file of another format may be refused as one line."""
_OTHER_DELIMITERS: Final = (";", "\t", "|", ",", "::", "~", "^")
_MAX_NAMES_SHOWN: Final = 100
_MAX_NAME_SHOWN: Final = 60
_MAX_LINES_ABOVE: Final = 100
"""Lines among which the header is looked for if the first one does not have the columns."""
_WRONG_ENCODING: Final = "INVALID ENCODING"

ScanKind = Literal["csv", "jsonl", "parquet"]


@dataclass(frozen=True)
class Part:
    """One of the files of a scan."""

    packed: Packed
    """The file that the user named."""
    plain: PlainText | None = None
    """The text that DuckDB reads; None for Parquet."""


@dataclass(frozen=True)
class Position:
    """A place in the source."""

    line: int
    """Number of the line, from 1; for Parquet, of the row."""
    file: str = ""
    """Name of the file; empty if the scan has only one."""


@dataclass(frozen=True, kw_only=True)
class Rejects:
    """What could not be parsed."""

    first: list[tuple[Position, str]]
    """Position and text of refused lines: not of all, if there are many."""
    num_lines: int
    by_part: list[set[int]]
    """Numbers of the lines that DuckDB refused, for each part."""
    hints: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Scan:
    """One or more files as an Ibis table of strings (Parquet: of the file's types). Refused lines are known after a
    run."""

    path: Path
    """The file that the user named, or the first of several."""
    kind: ScanKind
    rows: Any
    """Ibis table: ROW, and either LINE (JSON lines) or the file's columns, each under the name that `field` returns."""
    engine: DuckDBEngine
    parts: tuple[Part, ...] = ()
    """The files, in the order of their rows. Empty if `lines` of the source mean nothing: archived events."""
    num_header_lines: int = 0
    rejects_table: str = ""
    columns: tuple[str, ...] = ()
    """Columns of the file; empty for JSON lines."""
    delimiter: str = ""

    @property
    def label(self) -> str:
        """The source in a report."""
        more = len(self.parts) - 1
        return f"{self.path} and {more} more file{'s' * (more > 1)}" if more > 0 else str(self.path)

    @property
    def num_without_last_end(self) -> int:
        """Number of CSV files whose last line has no end, so that it may have been cut."""
        return sum(part.plain.ends_in_a_line for part in self.parts if part.plain) if self.kind == "csv" else 0

    def lines(self) -> Iterator[str]:
        """The lines of the text files, to examine the beginning."""
        for part in self.parts:
            if part.plain is not None:
                yield from Text(Packed(part.plain.path, part.plain.packing), UTF_8).lines()

    def field(self, section: str, column: str) -> str:
        """The name in `rows` of a column of the file: the column of exactly this name, or else of this name between
        blanks.

        Raises ConfigError, which names the section, when no column or more than one has this name.
        """
        for names in (self.columns, tuple(name.strip() for name in self.columns)):
            if names.count(column) > 1:
                raise ConfigError(f"{section}: {self.path.name} has {names.count(column)} columns {column!r}")
            if column in names:
                return field_names(names)[names.index(column)]
        raise ConfigError(
            f"{section}: {self.path.name} has no column {column!r}; its columns are {listed(self.columns)}"
            + self._proposal(column)
        )

    def _proposal(self, column: str) -> str:
        if self.kind == "csv" and self.columns[:1] and self.columns[0].lstrip().startswith(("{", "[")):
            return '; it looks like JSON: set file_format = "jsonl"'
        line = self.delimiter.join(self.columns)
        for other in _OTHER_DELIMITERS:
            if other != self.delimiter and column in (name.strip(' "') for name in line.split(other)):
                return f"; did you mean delimiter = {toml_string(other)}?"
        if any(name.strip() == f"'{column}'" for name in self.columns):
            return f"; did you mean quote = {toml_string(chr(39))}?"
        if alike := [name for name in self.columns if _letters(name) == _letters(column)]:
            return f"; did you mean {alike[0]!r}?"
        for number, below in enumerate(itertools.islice(self.lines(), _MAX_LINES_ABOVE), start=1):
            if number > 1 and column in (name.strip(' "') for name in below.split(self.delimiter)):
                return f"; line {number} has it: remove the lines above"
        return ""

    def rejects(self) -> Rejects:
        """The lines that could not be parsed in the last run over `rows`."""
        first: list[tuple[Position, str]] = []
        num_lines, by_part = 0, []
        wrong_encoding = None
        for index, part in enumerate(self.parts):
            refused = self._refused_by_duckdb(part)
            by_part.append({reject.line + offset for reject in refused for offset in range(reject.num_lines)})
            num_lines += len(refused)
            if part.plain is not None:
                num_lines += part.plain.refused.num_lines
                refused = sorted([*refused, *part.plain.refused.rejects], key=lambda reject: reject.line)
            lines = self._source_lines(index, [reject.line for reject in refused])
            first += [(self._position(index, line), reject.text) for line, reject in zip(lines, refused, strict=True)]
            if wrong_encoding is None and any(reject.is_wrong_encoding for reject in refused):
                wrong_encoding = part
        hints = () if wrong_encoding is None else (_encoding_hint(wrong_encoding),)
        return Rejects(first=first, num_lines=num_lines, by_part=by_part, hints=hints)

    def positions_of(self, rows: list[int], rejects: Rejects) -> list[Position]:
        """Where in the source the parsed rows begin."""
        if not rows:
            return []
        starts = self._first_rows()
        parts = [bisect.bisect_right(starts, row) - 1 for row in rows]
        ranks = self._ranks([*rows, *starts])
        found: dict[int, Position] = {}
        for index in sorted(set(parts)):
            ours = [row for row, part in zip(rows, parts, strict=True) if part == index]
            lines = [ranks[row] - ranks[starts[index]] + 1 for row in ours]
            if self.kind != "parquet":
                lines = lines_of_ranks(lines, self._skipped(index, rejects))
            lines = self._source_lines(index, lines)
            found |= {row: self._position(index, line) for row, line in zip(ours, lines, strict=True)}
        return [found[row] for row in rows]

    def _skipped(self, index: int, rejects: Rejects) -> set[int]:
        """Lines of a part that are not of a row."""
        if self.kind == "jsonl":
            return rejects.by_part[index]
        plain = self.parts[index].plain
        assert plain is not None
        header = set(range(1, self.num_header_lines + 1))
        # In a file of one column, a blank line is a row without a value to DuckDB, which counts.
        blank = set(blank_lines(plain)) if len(self.columns) > 1 else set()
        return rejects.by_part[index] | blank | header

    def _source_lines(self, index: int, lines: list[int]) -> list[int]:
        plain = self.parts[index].plain if self.parts else None
        if plain is None or plain.document_lines is None:
            return lines
        return [plain.document_lines[line - 1] for line in lines]

    def _position(self, index: int, line: int) -> Position:
        return Position(line, self.parts[index].packed.path.name if len(self.parts) > 1 else "")

    def _refused_by_duckdb(self, part: Part) -> list[Reject]:
        if part.plain is None:
            return []
        scans = f"{self.rejects_table}_scan"
        found = self.engine.query(
            f"SELECT line, any_value(line_byte_position), any_value(left(csv_line, {_MAX_REJECT_LENGTH})), "
            f"bool_or(error_type = '{_WRONG_ENCODING}') "
            f"FROM {self.rejects_table} JOIN {scans} USING (scan_id, file_id) "
            f"WHERE scan_id = (SELECT max(scan_id) FROM {scans}) AND file_path = {quoted(str(part.plain.path))} "
            "GROUP BY line ORDER BY line"
        )
        texts = [text or "" for _, _, text, _ in found]
        lines = [int(line) for line, _, _, _ in found]
        if self.kind == "csv":
            # `line` is the number of a record here, and a record may span several lines. The text and the position of a
            # refused record begin at the end of the line before it, and include blank lines in between.
            lines = lines_at(part.plain, [int(position) for _, position, _, _ in found])
            before = [text[: len(text) - len(text.lstrip("\r\n"))].count("\n") for text in texts]
            lines = [line + max(0, breaks - 1) for line, breaks in zip(lines, before, strict=True)]
        return [
            Reject(line, text.strip(), text.strip().count("\n") + 1, is_wrong)
            for line, text, (_, _, _, is_wrong) in zip(lines, texts, found, strict=True)
        ]

    def _first_rows(self) -> list[int]:
        """Number of the first row of each part."""
        if len(self.parts) <= 1:
            return [1]
        counted = self.engine.rows(self.rows.group_by(FILE).agg(rows=self.rows.count()))
        counts = {row[FILE]: row["rows"] for row in counted}
        paths = [part.packed.path if part.plain is None else part.plain.path for part in self.parts]
        return list(itertools.accumulate((counts.get(str(path), 0) for path in paths[:-1]), initial=1))

    def _ranks(self, rows: list[int]) -> dict[int, int]:
        """Rank of each row's first line among the lines that are neither blank nor refused, from 1."""
        # Only CSV has such records.
        if not any(part.plain is not None and part.plain.has_records_of_several_lines for part in self.parts):
            return {row: row for row in rows}

        def further_lines(column: Any) -> Any:
            # Line breaks in quotes. Consecutive breaks count once: the blank lines between them are skipped.
            breaks = column.replace("\r\n", "\n")
            if len(self.columns) > 1:
                breaks = breaks.re_replace("\n+", "\n")
            return (breaks.length() - breaks.replace("\n", "").length()).fill_null(0)

        further = reduce(operator.add, (further_lines(self.rows[field]) for field in field_names(self.columns)))
        counted = self.rows.select(ROW, further=further)
        further_before = counted["further"].sum().over(ibis.cumulative_window(order_by=ROW)) - counted["further"]
        ranked = counted.select(ROW, rank=(counted[ROW] + further_before).cast("int64"))
        # A part without rows begins where the next part does, perhaps after the last row.
        found = {row[ROW]: row["rank"] for row in self.engine.rows(ranked.filter(ranked[ROW].isin(rows)))}
        return {row: found.get(row, row) for row in rows}


def field_names(columns: Sequence[str]) -> list[str]:
    """Names of a file's columns in SQL, which does not tell names apart that differ in case only."""
    return [f"field_{number}" for number, _ in enumerate(columns, start=1)]


def listed(columns: Sequence[str]) -> str:
    """Names of columns in an error message: not all of many, and without characters that a terminal would obey."""
    shown = [name[:_MAX_NAME_SHOWN] if name.isprintable() else repr(name[:_MAX_NAME_SHOWN]) for name in columns]
    more = [f"and {len(shown) - _MAX_NAMES_SHOWN} more"] if len(shown) > _MAX_NAMES_SHOWN else []
    return ", ".join(shown[:_MAX_NAMES_SHOWN] + more)


def _letters(name: str) -> str:
    """A name in lower case, without blanks and signs."""
    return "".join(sign for sign in name.lower() if sign.isalnum())


def toml_string(text: str) -> str:
    """A text as the user writes it in TOML."""
    return '"' + text.replace("\t", "\\t") + '"'


def _encoding_hint(part: Part) -> str:
    assert part.plain is not None
    if part.plain.encoding != UTF_8:
        return f"{part.packed.name} has bytes that are not {part.plain.encoding}"
    proposed = proposed_encoding(raw_lines(part.packed))
    return f"{part.packed.name} is not UTF-8" + (
        f"; encoding = {toml_string(proposed)} probably fits" if proposed else ""
    )
