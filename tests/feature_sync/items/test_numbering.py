"""Sequence numbers of changes continue after the store is emptied: in the store, the archive and the next start."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from feature_sync.archive.tables import last_archived_sequence
from feature_sync.core.errors import ArchiveUnreadable, Unavailable
from feature_sync.core.settings import Settings
from feature_sync.items.maker import VectorMaker
from feature_sync.items.numbering import Numbering
from feature_sync.store.connection import StoreConnection
from feature_sync.stream.consumer import Parsed
from tandem.contract import names
from tandem.contract.live_items import item_vectors_feed
from tandem.contract.streams import ITEM_CHANGES, AppliedItemChange, applied_key
from tests.feature_sync.items.conftest import LiveCatalogue, change
from tests.feature_sync.service.test_run import Program
from tests.support.archive import write_item_changes
from tests.support.tiny_bundle import build_tiny_bundle
from tests.support.waiting import wait_until
from trainer.data.duckdb_engine import DuckDBEngine
from trainer.data.item_changes import stage_changes


def archived(folder: Path) -> list[dict[str, Any]]:
    """Rows in the order of the archive's files."""
    files = sorted((folder / ITEM_CHANGES).glob("day=*/[0-9]*.parquet"))
    return [row for file in files for row in pq.read_table(file, partitioning=None).to_pylist()]


def titles_for_the_trainer(folder: Path, work_dir: Path) -> dict[str, str]:
    work_dir.mkdir()
    with DuckDBEngine(work_dir) as engine:
        changes = stage_changes(engine, folder, sorted((folder / ITEM_CHANGES).glob("day=*/[0-9]*.parquet")))
        return {row[names.ITEM_ID]: row[names.TITLE] for row in engine.rows(changes.contents(engine))}


def is_archived(catalogue: LiveCatalogue, folder: Path, num_changes: int) -> Callable[[], bool]:
    return lambda: len(archived(folder)) == num_changes and catalogue.client.xlen(applied_key(ITEM_CHANGES)) == 0


@pytest.mark.process
def test_numbers_continue_after_the_store_is_emptied(catalogue: LiveCatalogue, tmp_path: Path) -> None:
    bundle = build_tiny_bundle(tmp_path / "tiny")
    program = Program(tmp_path, catalogue.url, archive_seconds=0.1, bundle_path=bundle.directory)
    before = [change(f"item-{n % 3}", n, title=f"title {n}") for n in range(1, 7)]
    with program.running():
        catalogue.append(*before)
        wait_until(is_archived(catalogue, tmp_path, 6), "the changes are archived")
    catalogue.client.flushall()
    process = program.start()
    try:
        catalogue.append(change("item-0", 11, title="after the loss"), change("new", 12, title="new"))
        wait_until(lambda: catalogue.sequence == 8, "further changes are applied")
    finally:
        process.kill()  # usually before these changes are archived
        process.wait(timeout=30)
    with program.running():
        catalogue.append(change("new", 12, title="new"), change("item-1", 13, title="after the crash"))
        wait_until(is_archived(catalogue, tmp_path, 9), "the next start continues")
        catalogue.client.flushall()
        catalogue.append(change("item-2", 14, title="after another loss"))
        wait_until(is_archived(catalogue, tmp_path, 10), "a loss during the run is noticed")
    rows = archived(tmp_path)
    assert [row[names.SEQUENCE] for row in rows] == list(range(1, 11)), "numbers continue, and none is repeated"
    changes = [(row[names.ITEM_ID], row[names.CHANGED_AT]) for row in rows]
    assert len(set(changes)) == len(changes), "no change was applied twice"
    assert catalogue.sequence == 10
    assert titles_for_the_trainer(tmp_path, tmp_path / "work") == {
        "item-0": "after the loss",
        "item-1": "after the crash",
        "item-2": "after another loss",
        "new": "new",
    }
    slots = {item_id: {row[names.SLOT] for row in rows if row[names.ITEM_ID] == item_id} for item_id, _ in changes}
    assert sum(len(item_slots) for item_slots in slots.values()) == len(set.union(*slots.values())), (
        "no two items share a slot"
    )
    assert "item_changes_go_on" in {line["event"] for line in program.logs()}


@pytest.mark.process
def test_sequences_of_vectors_continue_too(catalogue: LiveCatalogue, tmp_path: Path) -> None:
    bundle = build_tiny_bundle(tmp_path / "tiny")
    applier = catalogue.applier()
    settings = Settings(store_url=catalogue.url, data_dir=tmp_path)

    def step() -> None:
        store = StoreConnection(catalogue.url)
        VectorMaker(settings, store, live_bundles=lambda: [bundle], metrics=catalogue.metrics).step()
        store.close()

    def apply(item_id: str, second: int) -> None:
        entry = change(item_id, second)
        applier.apply([Parsed(payload=entry.to_bytes(), value=entry)], [])

    feed = item_vectors_feed(bundle.manifest.model_version)
    apply("item-1", 1)
    step()
    assert catalogue.client.get(feed.sequence) == b"1"
    catalogue.client.flushall()
    apply("item-2", 2)
    step()
    # A worker that has read up to sequence 1 finds the change.
    assert catalogue.client.zrangebyscore(feed.changes, "(1", catalogue.client.get(feed.sequence)) == [b"item-2"]


def taken(sequence: int) -> AppliedItemChange:
    return AppliedItemChange(sequence=sequence, slot=0, change=change("a", sequence))


def test_the_last_number_comes_from_the_store_the_archive_or_a_bundle(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    assert Numbering(nowhere, lambda: 0).last(0) == 0
    assert Numbering(nowhere, lambda: 7).last(0) == 7
    write_item_changes(tmp_path, {"2026-01-01": [taken(3)], "2026-01-02": [taken(10), taken(11)]})
    write_item_changes(tmp_path, {"2026-01-02": [taken(12)]})
    (tmp_path / "day=2026-01-03").mkdir()
    assert last_archived_sequence(tmp_path) == 12
    assert Numbering(tmp_path, lambda: 7).last(0) == 12
    assert Numbering(tmp_path, lambda: 13).last(5) == 13
    assert Numbering(tmp_path, lambda: None).last(40) == 40, "the store's number needs no bundle"


def test_numbers_given_by_this_process_are_remembered(tmp_path: Path) -> None:
    numbering = Numbering(tmp_path, lambda: 0)
    assert numbering.last(5) == 5
    numbering.give(9)
    assert numbering.last(0) == 9, "not archived yet"
    write_item_changes(tmp_path, {"2026-01-02": [taken(12)]})
    assert numbering.last(0) == 12, "another process has numbered changes meanwhile"


def test_nothing_is_numbered_while_the_last_number_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="before the registry"):
        Numbering(tmp_path, lambda: None).last(0)
    write_item_changes(tmp_path, {"2026-01-02": [taken(12)]})
    (file,) = tmp_path.glob("day=*/*.parquet")
    file.write_bytes(b"PAR1 half a file")
    with pytest.raises(ArchiveUnreadable, match=file.name):
        last_archived_sequence(tmp_path)
    with pytest.raises(Unavailable, match="archive cannot be read"):
        Numbering(tmp_path, lambda: 0).last(5)
