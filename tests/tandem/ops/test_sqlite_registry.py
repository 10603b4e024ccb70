"""The file of an SQLite registry: whole after every first minute, and one line about a file that cannot be used."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tandem.ops import sqlite_registry
from tandem.ops.model_registry import ModelRegistry, RegistryUnreadable, installed_schema
from tests.support.waiting import wait_until

pytestmark = pytest.mark.process

NAME = "shop"
OPEN = """
import sys
from tandem.ops.model_registry import ModelRegistry
print(ModelRegistry(sys.argv[1], model_name="shop", creates=True).versions())
"""
LONG_AGO = 1_600_000_000


def run_sql(database: Path, *statements: str) -> None:
    with closing(sqlite3.connect(database)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()
    os.utime(database, (LONG_AGO, LONG_AGO))


def first_tables(database: Path) -> None:
    """What is left if MLflow is killed before its first migration."""
    run_sql(
        database, "CREATE TABLE experiments (experiment_id INTEGER, name TEXT)", "CREATE TABLE runs (run_uuid TEXT)"
    )


def half_migrated(database: Path) -> None:
    """What is left if MLflow is killed while a migration copies a table: no later MLflow gets past the copy."""
    run_sql(
        database,
        "DELETE FROM alembic_version",
        "INSERT INTO alembic_version VALUES ('451aebb31d03')",
        "CREATE TABLE _alembic_tmp_tags (key TEXT)",
    )


def between_two_names(database: Path) -> None:
    """What is left if MLflow is killed after it has dropped a table and before it renames the table's copy."""
    half_migrated(database)
    run_sql(database, "ALTER TABLE experiments RENAME TO _alembic_tmp_experiments")


def without_tables(database: Path) -> None:
    database.write_bytes(b"")


HALF_MADE = {
    "first tables": (first_tables, False),
    "half a migration": (half_migrated, True),
    "between two names": (between_two_names, True),
    "zero bytes": (without_tables, False),
}


@pytest.mark.parametrize("kind", HALF_MADE)
def test_a_half_made_registry_is_made_anew_and_kept(
    kind: str, tmp_path: Path, empty_database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    database = tmp_path / "mlflow.db"
    spoil, begins_whole = HALF_MADE[kind]
    if begins_whole:
        shutil.copy(empty_database, database)
    spoil(database)
    database.with_name("mlflow.db-journal").write_bytes(b"")
    spoilt = database.read_bytes()
    schema = installed_schema()
    with pytest.raises(sqlite_registry.RegistryFileError, match="is not a complete registry"):
        sqlite_registry.check(database, schema)
    sqlite_registry.ensure(database, schema, lambda made: shutil.copyfile(empty_database, made))
    assert database.read_bytes() == empty_database.read_bytes()
    assert (tmp_path / "mlflow.db.incomplete").read_bytes() == spoilt
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mlflow.db", "mlflow.db.incomplete"]
    assert "is kept as" in caplog.text
    sqlite_registry.check(database, schema)
    uri = f"sqlite:///{database}"
    assert ModelRegistry(uri, model_name=NAME).versions() == []


def test_a_registry_that_another_program_completes_meanwhile_is_used(tmp_path: Path, empty_database: Path) -> None:
    """`mlflow ui` creates the tables under no lock: as long as it writes, nobody takes its file away."""
    database = tmp_path / "mlflow.db"
    first_tables(database)
    os.utime(database)
    whole = tmp_path / "whole"
    shutil.copy(empty_database, whole)
    code = "import os, sys, time; time.sleep(1); os.replace(sys.argv[1], sys.argv[2])"
    with subprocess.Popen([sys.executable, "-c", code, str(whole), str(database)]):
        sqlite_registry.ensure(database, installed_schema(), lambda _: pytest.fail("created"))
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]


def test_first_runs_at_once_all_succeed(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'new folder' / 'mlflow.db'}"
    processes = [
        subprocess.Popen([sys.executable, "-c", OPEN, uri], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    ended = [(*process.communicate(), process.returncode) for process in processes]
    assert [(stdout, code) for stdout, _, code in ended] == [("[]\n", 0)] * 3, ended
    assert [path.name for path in (tmp_path / "new folder").iterdir()] == ["mlflow.db"]


@pytest.mark.parametrize("delay_seconds", [0.0, 0.5])
def test_the_run_after_a_killed_first_run_works(delay_seconds: float, tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"
    with subprocess.Popen([sys.executable, "-c", OPEN, f"sqlite:///{database}"], stdout=subprocess.DEVNULL) as first:
        wait_until(lambda: any(tmp_path.iterdir()), "the creation begins")
        time.sleep(delay_seconds)
        first.kill()
    assert ModelRegistry(f"sqlite:///{database}", model_name=NAME, creates=True).versions() == []
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]


def of_newer_mlflow(database: Path) -> None:
    run_sql(database, "UPDATE alembic_version SET version_num = 'ffffffffffff'")


def of_older_mlflow(database: Path) -> None:
    half_migrated(database)
    run_sql(database, "INSERT INTO registered_models (name) VALUES ('shop')")


def of_another_program(database: Path) -> None:
    database.unlink()
    run_sql(database, "CREATE TABLE orders (id INTEGER)")


def garbage(database: Path) -> None:
    database.write_bytes(b"not a database at all, but long enough to be looked at as one" * 20)


def truncated(database: Path) -> None:
    database.write_bytes(database.read_bytes()[:10_000])


def folder(database: Path) -> None:
    database.unlink()
    database.mkdir()


UNUSABLE: dict[str, tuple[Callable[[Path], None], str]] = {
    "newer MLflow": (of_newer_mlflow, "has the schema ffffffffffff of a newer MLflow; install that MLflow"),
    "older MLflow": (of_older_mlflow, "back it up, then run: mlflow db upgrade sqlite:////"),
    "another program": (of_another_program, "is the SQLite database of another program"),
    "garbage": (garbage, "file is not a database; restore it from a backup"),
    "truncated": (truncated, "database disk image is malformed; restore it from a backup"),
    "a folder": (folder, "Is a directory"),
}


@pytest.mark.parametrize("creates", [True, False])
@pytest.mark.parametrize("kind", UNUSABLE)
def test_an_unusable_file_is_described_in_one_line_and_left_alone(
    kind: str, creates: bool, tmp_path: Path, empty_database: Path
) -> None:
    database = tmp_path / "mlflow.db"
    shutil.copy(empty_database, database)
    spoil, reason = UNUSABLE[kind]
    spoil(database)
    before = None if database.is_dir() else database.read_bytes()
    registry = ModelRegistry(f"sqlite:///{database}", model_name=NAME, creates=creates)
    with pytest.raises(RegistryUnreadable) as raised:
        registry.versions()
    message = str(raised.value)
    assert message.startswith(f"sqlite:///{database}: ")
    assert reason in message
    assert "\n" not in message
    assert before is None or database.read_bytes() == before


@pytest.mark.parametrize("creates", [True, False])
def test_a_database_that_stays_locked_is_described_in_one_line(
    creates: bool, tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_registry, "_LOCKED_SECONDS", 0.2)
    database = tmp_path / "mlflow.db"
    shutil.copy(empty_database, database)
    registry = ModelRegistry(f"sqlite:///{database}", model_name=NAME, creates=creates)
    with closing(sqlite3.connect(database, isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(
            RegistryUnreadable, match=r"database is locked for more than 0\.2 s by another program; end it"
        ):
            registry.versions()
    assert registry.versions() == []


def test_a_folder_that_cannot_be_made_is_described_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    registry = ModelRegistry(f"sqlite:///{tmp_path / 'file' / 'mlflow.db'}", model_name=NAME, creates=True)
    with pytest.raises(RegistryUnreadable, match=rf"{tmp_path / 'file'}: (File exists|Not a directory)"):
        registry.versions()
