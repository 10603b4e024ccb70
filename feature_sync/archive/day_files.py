"""Files of one archive: `day=YYYY-MM-DD/FIRST-LAST.parquet`, named by ids of the log of applied entries.

The newest name is the archive's position, so that data and position become visible in one rename. A reader that lists
the folder sees complete files only. The day, in UTC, is the day on which the entries were applied: a past day that is
archived never changes again, except that the rows of a deleted user leave it. Names stay then, because they are the
position; a file whose rows all left stays too, empty.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Self

from tandem.contract import names
from tandem.ops.file_lock import file_lock
from tandem.ops.file_replacement import flush_to_disk, put_in_place

_LOCK: Final = ".lock"
_UNFINISHED: Final = ".unfinished"
_REPLACEMENT: Final = ".replacement"
_WRITING: Final = ".writing.lock"
"""Held while a file is added. The other lock lasts as long as an archiver runs."""
_SUFFIX: Final = ".parquet"


@dataclass(frozen=True, order=True, slots=True)
class LogId:
    """The id of an entry of a Redis stream."""

    milliseconds: int
    """Milliseconds since 1970, by the store's clock."""
    number: int
    """Number of the entry within its millisecond."""

    @classmethod
    def parse(cls, text: str, separator: str = "-") -> Self:
        """Reads an id. Raises ValueError."""
        milliseconds, number = text.split(separator)
        return cls(int(milliseconds), int(number))

    @property
    def day(self) -> str:
        """YYYY-MM-DD, in UTC."""
        return datetime.fromtimestamp(self.milliseconds / 1000, UTC).date().isoformat()

    @property
    def next(self) -> LogId:
        """The smallest id after this one."""
        return LogId(self.milliseconds, self.number + 1)

    def __str__(self) -> str:
        return f"{self.milliseconds}-{self.number}"

    @property
    def in_name(self) -> str:
        """The form in file names, which sorts by time."""
        return f"{self.milliseconds:015}_{self.number:09}"


class DayFiles:
    """The folder of one archive, held by this process alone."""

    def __init__(self, folder: Path) -> None:
        """Creates the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._lock: int | None = None
        self._position: LogId | None = None

    def try_lock(self) -> bool:
        """Locks the folder, unless another process holds it. The lock ends with its process, even after a kill."""
        if self._lock is None:
            handle = os.open(self._folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
                return False
            self._lock = handle
            self._position = self._newest()
        return True

    def unlock(self) -> None:
        """Releases the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def position(self) -> LogId | None:
        """The id of the last archived entry; None if nothing is archived. Valid once the folder is locked."""
        return self._position

    def add(self, first: LogId, last: LogId, write: Callable[[Path], None]) -> None:
        """Adds the file of the entries from `first` to `last`, all of one day. The file is on disk when this returns.

        `write` writes the file to a given path; an unfinished file of an earlier process is overwritten. Raises
        OSError.
        """
        unfinished = self._folder / _UNFINISHED
        with writing(self._folder):
            write(unfinished)
            flush_to_disk(unfinished)
            day = self._folder / f"{names.DAY_PARTITION}{first.day}"
            if not day.is_dir():
                day.mkdir()
                flush_to_disk(self._folder)
            unfinished.rename(day / f"{first.in_name}-{last.in_name}{_SUFFIX}")
            flush_to_disk(day)
        self._position = last

    def _newest(self) -> LogId | None:
        files = newest_day(self._folder)
        return last_of(files[-1]) if files else None


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Nobody else adds a file to this archive during the block, however long an archiver runs. Raises OSError."""
    with file_lock(folder / _WRITING):
        yield


def replace_file(path: Path, write: Callable[[Path], None]) -> None:
    """Replaces a file of an archive by what `write` writes to a given path. Only one process may do this at a time, and
    an archiver may run. Raises OSError."""
    replacement = path.parent.parent / _REPLACEMENT
    write(replacement)
    flush_to_disk(replacement)
    put_in_place(replacement, path)
    flush_to_disk(path.parent)


def newest_day(folder: Path) -> list[Path]:
    """The files of the newest archived day, oldest first; empty if nothing is archived."""
    for day in sorted(folder.glob(f"{names.DAY_PARTITION}*"), reverse=True):
        if files := sorted(day.glob(f"[0-9]*{_SUFFIX}")):
            return files
    return []


def all_files(folder: Path) -> list[Path]:
    """All files of an archive, oldest first."""
    return sorted(folder.glob(f"{names.DAY_PARTITION}*/[0-9]*{_SUFFIX}"))


def last_of(path: Path) -> LogId:
    """The id of the last entry in a file."""
    return LogId.parse(path.stem.partition("-")[2], "_")


def day_of(path: Path) -> str:
    """The day of a file, YYYY-MM-DD."""
    return path.parent.name.removeprefix(names.DAY_PARTITION)
