"""feature_sync's archive of events and catalogue changes: Parquet files in one folder for each day on which they were
applied. The files of a day never change after its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time
from pathlib import Path

from tandem.contract import names
from tandem.ops.arguments import utc_moment
from trainer.core.errors import DataError
from trainer.data.config import DataConfig, parse_until
from trainer.data.duckdb_engine import parquet_files


@dataclass(frozen=True, kw_only=True)
class Archive:
    """The files of the selected days, in the order in which they were written."""

    events: tuple[Path, ...] = ()
    item_changes: tuple[Path, ...] = ()

    @property
    def newest_day(self) -> str:
        """The newest of the days, as YYYY-MM-DD; empty if there is none."""
        return max(
            (path.parent.name.removeprefix(names.DAY_PARTITION) for path in (*self.events, *self.item_changes)),
            default="",
        )

    def files(self) -> dict[str, Path]:
        """Every file by kind, day and name, which together identify its content."""
        kinds = {"events": self.events, "item_changes": self.item_changes}
        return {f"{kind}/{path.parent.name}/{path.name}": path for kind, paths in kinds.items() for path in paths}


def find_archive(config: DataConfig) -> Archive:
    """The files that a data set's description selects. Raises DataError for a folder that does not exist."""
    return Archive(
        events=archived_files(config.events, until=config.until) if config.events else (),
        item_changes=archived_files(config.item_changes, until=config.until) if config.item_changes else (),
    )


def parquet_select(columns: str, paths: Sequence[Path]) -> str:
    """SQL that reads the given columns, a select list, from all the files."""
    return f"SELECT {columns} FROM {parquet_files(paths)}"


def archived_files(folder: str | Path, *, since: str = "", until: str = "") -> tuple[Path, ...]:
    """The files of an archive, by day and then in the order in which they were written, of days that began at `since`
    or later and before `until`; empty: no limit. Raises DataError."""
    if not Path(folder).is_dir():
        raise DataError(f"{folder}: no such folder; feature_sync creates it when it applies the first entry")
    days = [day for day in sorted(Path(folder).glob(f"{names.DAY_PARTITION}*")) if _day_start(day)]
    if since:
        start = utc_moment(since)
        days = [day for day in days if _day_start(day) >= start]
    if until:
        end = parse_until(until)
        days = [day for day in days if _day_start(day) < end]
    # The name of a file that is still being written begins with a dot or an underscore.
    return tuple(path for day in days for path in sorted(day.glob("[!._]*.parquet")))


def _day_start(folder: Path) -> datetime:
    try:
        return datetime.combine(datetime.strptime(folder.name, f"{names.DAY_PARTITION}%Y-%m-%d").date(), time(), UTC)
    except ValueError as error:
        raise DataError(f"{folder}: is not named after a day, {names.DAY_PARTITION}YYYY-MM-DD") from error
