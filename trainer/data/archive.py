"""What feature_sync keeps of events and catalogue changes: Parquet files in a folder for every day on which they were
applied, and never touched again once the day is over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time
from pathlib import Path

from tandem.contract import names
from trainer.core.errors import DataError
from trainer.data.config import DataConfig, parse_until
from trainer.data.duckdb_engine import quoted


@dataclass(frozen=True, kw_only=True)
class Archive:
    """The files of the days that count, in the order in which they were written."""

    events: tuple[Path, ...] = ()
    item_changes: tuple[Path, ...] = ()

    @property
    def newest_day(self) -> str:
        """The newest day of them, as YYYY-MM-DD; empty where there is none."""
        return max(
            (path.parent.name.removeprefix(names.DAY_PARTITION) for path in (*self.events, *self.item_changes)),
            default="",
        )

    def files(self) -> dict[str, Path]:
        """Every file by what it is: kind, day and name, which say together what it holds."""
        kinds = {"events": self.events, "item_changes": self.item_changes}
        return {f"{kind}/{path.parent.name}/{path.name}": path for kind, paths in kinds.items() for path in paths}


def find_archive(config: DataConfig) -> Archive:
    """The files that a data set's description means. Raises DataError for a folder that does not exist."""
    return Archive(
        events=_files(config.events, config.until) if config.events else (),
        item_changes=_files(config.item_changes, config.until) if config.item_changes else (),
    )


def parquet_select(columns: str, paths: Sequence[Path]) -> str:
    """SQL that reads some columns of all these files."""
    listed = ", ".join(quoted(str(path)) for path in paths)
    return f"SELECT {columns} FROM read_parquet([{listed}], hive_partitioning=false)"


def _files(folder: str, until: str) -> tuple[Path, ...]:
    if not Path(folder).is_dir():
        raise DataError(f"{folder}: no such folder; feature_sync makes it when it applies the first event")
    days = [day for day in sorted(Path(folder).glob(f"{names.DAY_PARTITION}*")) if _began(day)]
    if until:
        end = parse_until(until)
        days = [day for day in days if _began(day) < end]
    # A name that begins with a dot or an underscore is of a file that is still being written.
    return tuple(path for day in days for path in sorted(day.glob("[!._]*.parquet")))


def _began(day: Path) -> datetime:
    try:
        return datetime.combine(datetime.strptime(day.name, f"{names.DAY_PARTITION}%Y-%m-%d").date(), time(), UTC)
    except ValueError as error:
        raise DataError(f"{day}: is not named after a day, {names.DAY_PARTITION}YYYY-MM-DD") from error
