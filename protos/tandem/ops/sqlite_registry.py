"""The file of an SQLite registry: created whole, and looked at before MLflow opens it.

MLflow creates its tables in dozens of steps, each of which is committed by itself, and takes no lock between processes.
A process that is killed meanwhile, or a second one, leaves a file that MLflow can neither open nor complete. So the
tables are made in a file beside, under a lock, and the file appears under its name once it is complete.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from tandem.ops.file_lock import LockHeld, file_lock

log = logging.getLogger(__name__)

_LOCKED_SECONDS: Final = 20.0
"""Longest wait for a program that has locked the database; MLflow itself waits as long."""
_CREATION_SECONDS: Final = 120.0
"""Longest wait for another process that creates the registry."""
_QUIET_SECONDS: Final = 10.0
"""Age of the last write to an incomplete file, after which no program is taken to be completing it."""
_POLL_SECONDS: Final = 0.2
_VERSION_TABLE: Final = "alembic_version"
_COPY_PREFIX: Final = "_alembic_tmp_"
"""Prefix of the copy of a table by which a migration replaces the table."""


class RegistryFileError(Exception):
    """The file is no registry that this version of MLflow can use. The message is one line: the reason and, if there is
    one, the remedy; the caller names the file."""


class _State(Enum):
    COMPLETE = "complete"
    EMPTY = "empty"  # no tables: it stands for nothing, as a missing file does
    INCOMPLETE = "incomplete"  # MLflow's tables in part, and no rows that anybody wrote


@dataclass(frozen=True, kw_only=True)
class Schema:
    """Versions of MLflow's schema, names of its migrations."""

    head: str
    """The version that this MLflow reads and writes."""
    known: frozenset[str]
    """All versions that it knows: those of older releases, and the head."""


def check(database: Path, schema: Schema) -> None:
    """Raises RegistryFileError unless the file is a complete registry of this version of MLflow."""
    if not database.exists():
        raise RegistryFileError("there is no such file")
    if _state(database, schema) is not _State.COMPLETE:
        raise RegistryFileError(
            "is not a complete registry: its creation was interrupted, or is under way; "
            "the trainer completes it: python -m trainer versions"
        )


def ensure(database: Path, schema: Schema, create: Callable[[Path], None]) -> None:
    """Returns once the file is a complete registry; makes it if it is missing, empty or incomplete.

    `create` writes a registry to a new file. An incomplete file that holds nothing but parts of MLflow's tables is kept
    under another name. Processes that call this at once wait for the one that creates the registry.

    Raises RegistryFileError: the file belongs to another version of MLflow or another program, is damaged, locked or
    not readable, or the folder cannot be written.
    """
    try:
        if database.exists() and _state(database, schema) is _State.COMPLETE:
            return
        database.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(database.with_name(f"{database.name}.lock"), wait_seconds=_CREATION_SECONDS):
            if database.exists() and _settled_state(database, schema) is _State.COMPLETE:
                return
            _create(database, create)
    except LockHeld as error:
        raise RegistryFileError(f"{error}, to create the registry; end that process") from error
    except OSError as error:
        raise RegistryFileError(f"{error.filename or database}: {error.strerror or error}") from error


def _create(database: Path, create: Callable[[Path], None]) -> None:
    prefix = f".{database.name}.new-"
    for left in database.parent.glob(f"{prefix}*"):  # by a process that was killed: the lock is ours
        left.unlink(missing_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=prefix, dir=database.parent)
    os.close(descriptor)
    made = Path(name)
    try:
        made.chmod(0o666 & ~_umask())
        create(made)
        if database.exists():
            _set_aside(database)
        made.rename(database)
    finally:
        made.unlink(missing_ok=True)


def _set_aside(database: Path) -> None:
    """Renames an empty or incomplete file, which no other program is writing then."""
    kept = database.with_name(f"{database.name}.incomplete")
    with _opened(database) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        database.rename(kept)
        # A journal that the interrupted program left must not be taken for the new file's.
        database.with_name(f"{database.name}-journal").unlink(missing_ok=True)
    log.warning("%s was not a complete registry; it is kept as %s, and a new one takes its place", database, kept)


def _umask() -> int:
    current = os.umask(0o077)
    os.umask(current)
    return current


def _settled_state(database: Path, schema: Schema) -> _State:
    """The state once no program seems to be creating the registry: `mlflow ui` does it under no lock."""
    while (state := _state(database, schema)) is _State.INCOMPLETE and _seconds_since_write(database) < _QUIET_SECONDS:
        time.sleep(_POLL_SECONDS)
    return state


def _seconds_since_write(database: Path) -> float:
    return abs(time.time() - database.stat().st_mtime)


def _state(database: Path, schema: Schema) -> _State:
    with _opened(database) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if all(name == _VERSION_TABLE for name in tables):
            return _State.EMPTY
        # MLflow creates the table of experiments first, because all others refer to it.
        if not tables & {"experiments", f"{_COPY_PREFIX}experiments"}:
            raise RegistryFileError("is the SQLite database of another program")
        found = _version(connection) if _VERSION_TABLE in tables else ""
        if found == schema.head:
            return _State.COMPLETE
        if found and found not in schema.known:
            raise RegistryFileError(
                f"has the schema {found} of a newer MLflow; install that MLflow, this one knows "
                f"schemas up to {schema.head}"
            )
        if any(_holds_rows(connection, table) for table in sorted(tables)):
            raise RegistryFileError(
                f"has the schema {found or 'of no version'} instead of {schema.head}: an older MLflow made "
                f"it, or an upgrade was interrupted; back it up, then run: mlflow db upgrade sqlite:///{database}"
            )
        return _State.INCOMPLETE


def _version(connection: sqlite3.Connection) -> str:
    row = connection.execute(f"SELECT version_num FROM {_VERSION_TABLE}").fetchone()
    return "" if row is None else str(row[0])


def _holds_rows(connection: sqlite3.Connection, table: str) -> bool:
    """Whether a table has rows beside those that MLflow creates by itself."""
    if table in {_VERSION_TABLE, "workspaces"}:
        return False
    own = "WHERE name <> 'Default'" if table.removeprefix(_COPY_PREFIX) == "experiments" else ""
    return connection.execute(f'SELECT 1 FROM "{table}" {own} LIMIT 1').fetchone() is not None


@contextmanager
def _opened(database: Path) -> Iterator[sqlite3.Connection]:
    """A connection to an existing file. Turns errors into RegistryFileError."""
    try:
        # SQLite's own message does not say why it cannot open a file, and a pipe would keep it waiting.
        os.close(os.open(database, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
        if not database.is_file():
            raise RegistryFileError("Is a directory" if database.is_dir() else "is no file")
        # Read and write, so that SQLite can undo a transaction that was cut off; a read-only file is opened too.
        with closing(
            sqlite3.connect(f"{database.as_uri()}?mode=rw", uri=True, timeout=_LOCKED_SECONDS, isolation_level=None)
        ) as connection:
            yield connection
    except OSError as error:
        raise RegistryFileError(error.strerror or str(error)) from error
    except sqlite3.OperationalError as error:
        locked = "locked" in str(error)
        remedy = f" for more than {_LOCKED_SECONDS:g} s by another program; end it" if locked else ""
        raise RegistryFileError(f"{error}{remedy}") from error
    except sqlite3.DatabaseError as error:
        raise RegistryFileError(f"{error}; restore it from a backup, or move it away and train again") from error
