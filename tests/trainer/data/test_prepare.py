"""The whole stage: data is prepared once, again after a change, and equally in every folder."""

import dataclasses
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from structlog.testing import capture_logs

from tests.trainer.data.conftest import table_rows
from tests.trainer.data.serving_files import ServedFile, serve
from trainer.core.errors import DataError, DownloadError
from trainer.data.config import load_data_config
from trainer.data.prepare import load_prepared, prepare
from trainer.data.report import CleaningReport

ROWS = "u,i,r,p\n1,a,5,0\n1,b,2,1\n2,a,4,0\n"
CONFIG = """
name = "small"
format = "table"
[interactions]
path = "rows.csv"
user = "u"
item = "i"
rating = "r"
position = "p"
"""


@pytest.fixture
def config(write):
    write("rows.csv", ROWS)
    return load_data_config(str(write("data.toml", CONFIG)), {})


def test_a_second_call_reuses_the_folder(config, tmp_path: Path):
    first = prepare(config, tmp_path / "cache")
    written_at = (first.directory / "interactions.parquet").stat().st_mtime_ns
    second = prepare(config, tmp_path / "cache")
    assert second == first
    assert (second.directory / "interactions.parquet").stat().st_mtime_ns == written_at
    assert [path.name for path in (tmp_path / "cache" / "prepared").iterdir()] == [first.directory.name]


def test_the_description_is_complete(config, tmp_path: Path):
    prepared = prepare(config, tmp_path / "cache")
    raw = json.loads((prepared.directory / "prepared.json").read_text())
    assert raw["name"] == "small"
    assert (raw["num_users"], raw["num_items"], raw["num_interactions"]) == (2, 2, 3)
    assert CleaningReport.from_dict(raw["report"]) == prepared.report
    assert prepared.directory.name.startswith("small-")
    assert len(prepared.fingerprint) == 64


def test_content_changes_the_fingerprint_and_the_folder(config, write, tmp_path: Path):
    first = prepare(config, tmp_path / "cache")
    write("rows.csv", ROWS + "2,b,5,1\n")
    second = prepare(config, tmp_path / "cache")
    assert second.fingerprint != first.fingerprint
    assert second.directory != first.directory
    assert second.num_interactions == 4


def test_configuration_changes_the_folder(config, tmp_path: Path):
    first = prepare(config, tmp_path / "cache")
    stricter = prepare(load_data_config(str(tmp_path / "data.toml"), {"min_rating": "4"}), tmp_path / "cache")
    assert stricter.directory != first.directory
    assert stricter.fingerprint != first.fingerprint
    assert stricter.num_interactions == 2


def test_the_same_data_elsewhere_has_the_same_fingerprint(config, write, tmp_path: Path):
    first = prepare(config, tmp_path / "cache")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("rows.csv", "data.toml"):
        (elsewhere / name).write_text((tmp_path / name).read_text())
    second = prepare(load_data_config(str(elsewhere / "data.toml"), {}), elsewhere / "cache")
    assert second.fingerprint == first.fingerprint
    assert second.directory.name == first.directory.name


def test_a_folder_that_a_crash_left_is_prepared_again(config, tmp_path: Path):
    first = prepare(config, tmp_path / "cache")
    (first.directory / "prepared.json").unlink()
    assert prepare(config, tmp_path / "cache") == first


@pytest.mark.parametrize("name", ["interactions.parquet", "items.parquet", "users.parquet"])
@pytest.mark.parametrize("damage", ["missing", "flipped bit", "truncated", "empty"])
def test_damaged_data_are_an_error_and_are_prepared_again(config, tmp_path: Path, name: str, damage: str):
    first = prepare(config, tmp_path / "cache")
    path = first.directory / name
    content = path.read_bytes()
    flipped = bytes([*content[:40], content[40] ^ 1, *content[41:]])
    path.write_bytes({"flipped bit": flipped, "truncated": content[:-5]}.get(damage, b""))
    if damage == "missing":
        path.unlink()
    with pytest.raises(DataError, match=rf"{path}: .*; delete {first.directory} to prepare it again"):
        load_prepared(first.directory)
    assert prepare(config, tmp_path / "cache") == first
    assert path.read_bytes() == content
    assert [entry.name for entry in first.directory.parent.iterdir()] == [first.directory.name]


def test_what_a_killed_process_left_is_removed(config, tmp_path: Path):
    first = prepare(config, tmp_path / "cache")
    left = first.directory.with_name(f".{first.directory.name}-abc") / "work"
    left.mkdir(parents=True)
    shutil.rmtree(first.directory)
    assert prepare(config, tmp_path / "cache") == first
    assert [entry.name for entry in first.directory.parent.iterdir()] == [first.directory.name]


def test_the_same_data_prepared_at_once_are_prepared_once(config, tmp_path: Path):
    with ThreadPoolExecutor(4) as threads, capture_logs() as logs:
        prepared = list(threads.map(lambda _: prepare(config, tmp_path / "cache"), range(4)))
    assert prepared == [prepared[0]] * 4
    assert [entry.name for entry in prepared[0].directory.parent.iterdir()] == [prepared[0].directory.name]
    assert {entry["event"] for entry in logs} <= {"waiting_for_another_process"}


def test_a_damaged_description_is_an_error_that_says_what_to_do(config, tmp_path: Path):
    first = prepare(config, tmp_path / "cache")
    (first.directory / "prepared.json").write_text("{}")
    with pytest.raises(DataError, match=f"delete {first.directory}"):
        load_prepared(first.directory)


@pytest.mark.process
def test_a_url_is_downloaded_and_prepared(write, tmp_path: Path):
    config_path = write("data.toml", CONFIG)
    with serve(ServedFile(ROWS.encode() * 1)) as served:
        url = str(httpx.URL(served.url).copy_with(path="/rows.csv"))
        config = load_data_config(str(config_path), {"interactions.path": url})
        assert prepare(config, tmp_path / "cache").num_interactions == 3
        wrong = load_data_config(
            str(config_path), {"interactions.path": url, "interactions.sha256": "0" * 64, "name": "wrong"}
        )
        with pytest.raises(DownloadError, match="the configuration says 0000"):
            prepare(wrong, tmp_path / "cache")


def test_positions_order_interactions_without_times(write, tmp_path: Path):
    write("rows.csv", "u,i,r,p\n1,a,5,2\n1,b,5,10\n1,c,5,1\n")
    prepared = prepare(load_data_config(str(write("data.toml", CONFIG)), {}), tmp_path / "cache")
    assert [row["item_id"] for row in table_rows(prepared, "interactions")] == ["c", "a", "b"]


def test_the_report_prints_as_a_table(config, tmp_path: Path):
    report = prepare(load_data_config(str(tmp_path / "data.toml"), {"min_rating": "4"}), tmp_path / "cache").report
    lines = report.to_text().splitlines()
    assert lines[0].startswith("interactions: ")
    assert lines[1:] == [
        "             3  rows read",
        "             1  dropped: below_min_rating (a rating below min_rating)",
        "             2  rows kept",
    ]


def test_a_report_whose_numbers_do_not_add_up_is_a_bug(config, tmp_path: Path):
    report = prepare(config, tmp_path / "cache").report.file("interactions")
    with pytest.raises(AssertionError):
        dataclasses.replace(report, rows_kept=report.rows_kept + 1)
