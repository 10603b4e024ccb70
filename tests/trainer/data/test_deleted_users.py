"""A deleted user stays out of prepared data, whatever the sources still hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import trainer.data.prepare
from tandem.contract.deleted_users import DeletedUsers, user_sha256
from tandem.ops.deleted_users_file import DELETED_USERS_FILE, add_deleted_users
from tests.support.archive import event, write_events
from tests.trainer.data.conftest import table_rows
from tests.trainer.data.plain_table import prepare_table
from trainer.core.errors import DataError
from trainer.data.prepare import PreparedData, prepare

SECOND = 1_000_000
ROWS = "u,i,r,t\nann,tea,5,100\nann,pot,1,110\nann,cup,4,300\nbob,tea,4,100\nbob,pot,5,200\nann;x,cup,bad,120\n"
KEYS = 'path = "rows.csv"\nrating = "r"\ntimestamp = "t"'
USERS = '[users]\npath = "users.csv"\nid = "u"\nfeatures = { age = "age" }'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "rows.csv").write_text(ROWS)
    (tmp_path / "users.csv").write_text("u,age\nann,49\nbob,20\n")
    return tmp_path


def delete(folder: Path, user_id: str, seconds: float) -> None:
    add_deleted_users(folder / "cache", DeletedUsers({user_sha256(user_id): round(seconds * SECOND)}))


def prepared_of(folder: Path, head: str = "min_rating = 2\n") -> PreparedData:
    return prepare_table(folder, KEYS, head=head, sections=USERS)


def test_what_a_user_did_up_to_the_deletion_is_left_out_and_counted(folder: Path) -> None:
    before = prepared_of(folder)
    delete(folder, "ann", 110)
    prepared = prepared_of(folder)
    assert prepared.directory != before.directory
    rows = [(row["user_id"], row["item_id"]) for row in table_rows(prepared, "interactions")]
    assert rows == [("ann", "cup"), ("bob", "tea"), ("bob", "pot")]  # ann came back
    assert table_rows(prepared, "low_rated") == []
    assert table_rows(prepared, "users") == [{"user_id": "ann", "age": None}, {"user_id": "bob", "age": "20"}]
    assert prepared.report.file("interactions").dropped["deleted_user"] == 2
    assert prepared.report.file("users").dropped["deleted_user"] == 1
    assert "2  dropped: deleted_user (of a user who was deleted" in prepared.report.to_text()


def test_a_bad_line_of_a_deleted_user_is_not_quoted(folder: Path) -> None:
    (line,) = prepared_of(folder).report.file("interactions").bad_lines
    assert line.text.startswith("ann;x")
    delete(folder, "ann", 500)
    prepared = prepared_of(folder)
    assert "ann" not in (prepared.directory / "prepared.json").read_text()
    (line,) = prepared.report.file("interactions").bad_lines
    assert (line.line, line.kind, line.text) == (7, "unparsable_rating", "(of a deleted user)")


def test_data_without_times_are_left_out_for_ever(folder: Path) -> None:
    delete(folder, "ann", 1)
    prepared = prepare_table(folder, 'path = "rows.csv"\nfile_order = true')
    assert {row["user_id"] for row in table_rows(prepared, "interactions")} == {"bob", "ann;x"}


def test_ids_are_compared_as_they_are_prepared(folder: Path) -> None:
    (folder / "rows.csv").write_text("u,i\n10.0,1\n11.0,1\n")
    delete(folder, "10", 1)
    prepared = prepare_table(folder, 'path = "rows.csv"\nfile_order = true')
    assert [row["user_id"] for row in table_rows(prepared, "interactions")] == ["11"]


def test_archived_events_are_left_out_by_their_time(folder: Path) -> None:
    events = [event("e1", "ann", "new", 150), event("e2", "ann", "old", 400), event("e3", "eve", "new", 150)]
    write_events(folder / "events", {"2026-01-01": events})
    delete(folder, "ann", 399)
    prepared = prepared_of(folder, head=f'events = "{folder / "events"}"\n')
    rows = {(row["user_id"], row["item_id"]) for row in table_rows(prepared, "interactions")}
    assert {row for row in rows if row[0] == "ann"} == {("ann", "old")}
    assert ("eve", "new") in rows
    assert prepared.report.file("events").dropped["deleted_user"] == 1


def test_an_archive_of_files_that_were_emptied_is_read(folder: Path) -> None:
    write_events(folder / "events", {"2026-01-01": [], "2026-01-02": []})
    events = f'events = "{folder / "events"}"\n'
    rows = table_rows(prepared_of(folder, head=events), "interactions")
    assert rows == table_rows(prepared_of(folder, head=""), "interactions")
    write_events(folder / "events", {"2026-01-02": [event("e1", "eve", "tea", 150)]})
    assert prepared_of(folder, head=events).num_events == 1


def test_without_anybody_left_the_error_says_why(folder: Path) -> None:
    for user in ("ann", "bob", "ann;x"):
        delete(folder, user, 1)
    with pytest.raises(DataError, match=r"no interaction is left(.|\n)*dropped: deleted_user"):
        prepare_table(folder, 'path = "rows.csv"\nfile_order = true')


def test_a_user_who_is_deleted_meanwhile_is_left_out_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = trainer.data.prepare.clean, []

    def clean_slowly(*arguments: object) -> object:
        calls.append(1)
        if len(calls) == 1:
            delete(folder, "ann", 500)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(trainer.data.prepare, "clean", clean_slowly)
    prepared = prepared_of(folder)
    assert len(calls) == 2
    assert {row["user_id"] for row in table_rows(prepared, "interactions")} == {"bob"}
    assert [path.name for path in prepared.directory.parent.glob("[!.]*")] == [prepared.directory.name]


def test_given_data_that_hold_a_deleted_user_are_refused(folder: Path) -> None:
    prepared = prepared_of(folder)
    delete(folder, "stranger", 500)
    assert prepare(prepared, folder / "cache") == prepared
    delete(folder, "ann", 99)
    assert prepare(prepared, folder / "cache") == prepared  # all of it is from after the deletion
    delete(folder, "ann", 100)
    with pytest.raises(DataError, match="holds 1 users who were deleted after it was prepared"):
        prepare(prepared, folder / "cache")


def test_a_damaged_register_lets_nothing_be_prepared(folder: Path) -> None:
    (folder / "cache").mkdir()
    (folder / "cache" / DELETED_USERS_FILE).write_text(json.dumps({"format": 99}))
    with pytest.raises(Exception, match=DELETED_USERS_FILE):
        prepared_of(folder)
