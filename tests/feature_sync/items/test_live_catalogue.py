"""The live catalogue in `feature_sync run`: kills under load, and an item's way from the stream to its vector."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from tandem.contract.streams import ITEM_CHANGES, ItemChange, stream_key
from tests.feature_sync.items.conftest import LiveCatalogue, change
from tests.feature_sync.service.test_run import Program
from tests.support.tiny_bundle import build_tiny_bundle
from tests.support.trained import TrainedModel
from tests.support.waiting import wait_until

pytestmark = pytest.mark.process

NUM_KILLS = 20
NUM_KNOWN_ITEMS = 50


class Writer:
    """Appends changes continuously: repeated changes of the bundle's items, and a single change for each new item."""

    def __init__(self, catalogue: LiveCatalogue) -> None:
        self.changes: list[ItemChange] = []
        self._catalogue = catalogue
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        number = 0
        while not self._stop.wait(0.01):
            numbers = range(number + 1, number + 11)
            number += len(numbers)
            batch = [change(f"item-{n % NUM_KNOWN_ITEMS}", n, title=f"title {n}") for n in numbers]
            batch += [change(f"once-{n}", n) for n in numbers]
            # Every tenth batch is appended twice, as by a server that got no reply to its first append.
            self._catalogue.append(*batch, *(batch if number % 100 == 0 else ()))
            self.changes += batch


def test_twenty_kills_leave_each_change_applied_once(catalogue: LiveCatalogue, tmp_path: Path) -> None:
    bundle = build_tiny_bundle(tmp_path / "tiny")
    program = Program(tmp_path, catalogue.url, archive="false", batch_entries=50, bundle_path=bundle.directory)
    moments = random.Random(1)
    with Writer(catalogue) as writer:
        for _ in range(NUM_KILLS):
            before = catalogue.sequence
            process = program.start()
            wait_until(lambda before=before: catalogue.sequence > before, "changes are applied")
            threading.Event().wait(moments.uniform(0.0, 0.2))
            process.kill()
            process.wait(timeout=30)
    with program.running():
        wait_until(lambda: catalogue.client.xlen(stream_key(ITEM_CHANGES)) == 0, "the backlog is applied")
        newest = {change.item_id: change for change in writer.changes}
        known = {f"item-{number}" for number in range(NUM_KNOWN_ITEMS)}
        wait_until(
            lambda: (
                {item_id: vector.change_sequence for item_id, vector in catalogue.vectors("tiny-1").items()}
                == {item_id: entry.sequence for item_id in known if (entry := catalogue.entry(item_id))}
            ),
            "every known item has the vector of its newest change",
        )
    log = catalogue.log()
    assert [taken.sequence for taken in log] == list(range(1, len(log) + 1))
    applied = [(taken.change.item_id, taken.change.changed_at) for taken in log]
    assert len(set(applied)) == len(applied), "no change was applied twice"
    assert {item_id for item_id, _ in applied} == set(newest), "no change was lost"
    for item_id, expected in newest.items():
        entry = catalogue.entry(item_id)
        assert entry is not None
        assert entry.change == expected
    slots = [catalogue.place(item_id).slot for item_id in newest]
    assert len(set(slots)) == len(newest)


def test_from_the_append_to_the_vector(catalogue: LiveCatalogue, trained: TrainedModel, tmp_path: Path) -> None:
    version = trained.bundle.manifest.model_version
    program = Program(tmp_path, catalogue.url)
    program.variables["TANDEM_REGISTRY_URI"] = trained.registry_uri
    with program.running():
        catalogue.append(change("new", 1))
        wait_until(lambda: "new" in catalogue.vectors(version), "the item has a vector under the champion")
        catalogue.append(change("new", 2, deleted=True))
        wait_until(lambda: "new" not in catalogue.vectors(version), "its vector is removed")
        changes = [change(f"new-{number}", number, description=f"number {number}") for number in range(200)]
        catalogue.append(*changes)
        wait_until(lambda: len(catalogue.vectors(version)) == len(changes), "all items have vectors")
        assert (program.metric("tandem_sync_item_vectors_total") or 0) >= 1 + len(changes)
        assert program.metric('tandem_sync_applied_total{stream="item-changes",type="upsert"}') == 1 + len(changes)
    assert np.isfinite([vector.values for vector in catalogue.vectors(version).values()]).all()
    done = subprocess.run(
        [sys.executable, "-m", "feature_sync", "show-item", "new-7"],
        env={**os.environ, **program.variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    shown = json.loads(done.stdout)
    assert shown["change"]["description"] == "number 7"
    assert shown["vectors"][version]["vector"]["is_current"] is True
