"""Item changes from the stream into the store, with a real Valkey and the real consumer."""

from __future__ import annotations

import pytest

from feature_sync.core.errors import StoreConflict
from feature_sync.items.applier import ItemChangeApplier
from feature_sync.store.connection import StoreConnection
from feature_sync.stream.consumer import Consumer, Parsed
from feature_sync.stream.dead_letters import DeadLetters
from feature_sync.stream.redis_source import RedisSource
from tandem.contract.errors import StreamEntryError
from tandem.contract.streams import DEAD_REASON_FIELD, ITEM_CHANGES, ItemChange, dead_letters_key, stream_key
from tests.feature_sync.items.conftest import LiveCatalogue, change, no_numbers

pytestmark = pytest.mark.process


class StopsWhenEmpty(ItemChangeApplier):
    """Stops the consumer once the stream is empty."""

    consumer: Consumer[ItemChange]
    catalogue: LiveCatalogue

    def rest(self) -> None:
        if self.catalogue.client.xlen(stream_key(ITEM_CHANGES)) == 0:
            self.consumer.stop()


def consume(catalogue: LiveCatalogue) -> None:
    """Runs a consumer in this thread until the stream is empty."""
    store, metrics = StoreConnection(catalogue.url), catalogue.metrics.of_stream(ITEM_CHANGES)
    applier = StopsWhenEmpty(store, numbering=no_numbers(), metrics=metrics, on_applied=lambda: None)
    consumer = Consumer(
        RedisSource(catalogue.url, ITEM_CHANGES, takeover_seconds=0.2, shares_store=True),
        applier,
        dead_letters=DeadLetters(store, ITEM_CHANGES, max_entries=100),
        metrics=metrics,
        batch_entries=100,
    )
    applier.consumer, applier.catalogue = consumer, catalogue
    consumer.run()


def test_changes_reach_the_feed_the_places_and_the_log(catalogue: LiveCatalogue) -> None:
    catalogue.append(change("a", 1), change("b", 2), change("a", 3, deleted=True, title="", categories=()))
    consume(catalogue)
    assert catalogue.sequence == 3
    assert catalogue.changed() == ["b", "a"]
    assert catalogue.changed(after=2) == ["a"]
    a = catalogue.entry("a")
    assert a is not None
    assert (a.sequence, a.slot, a.change.deleted) == (3, 0, True)
    assert catalogue.place("b").slot == 1
    assert [(taken.change.item_id, taken.sequence) for taken in catalogue.log()] == [("a", 1), ("b", 2), ("a", 3)]
    assert catalogue.count("tandem_sync_applied_total", stream=ITEM_CHANGES, type="upsert") == 2
    assert catalogue.count("tandem_sync_applied_total", stream=ITEM_CHANGES, type="delete") == 1


def test_a_change_that_is_delivered_again_is_applied_once(catalogue: LiveCatalogue) -> None:
    catalogue.append(change("a", 1))
    consume(catalogue)
    catalogue.append(change("a", 1), change("a", 0, title="older, and late"))
    consume(catalogue)
    assert len(catalogue.log()) == 1
    a = catalogue.entry("a")
    assert a is not None
    assert a.change.title == "A black square"
    assert catalogue.count("tandem_sync_duplicates_total", stream=ITEM_CHANGES) == 2


def test_a_change_without_new_contents_gets_no_sequence(catalogue: LiveCatalogue) -> None:
    catalogue.apply(change("a", 1))
    catalogue.apply(change("a", 5))
    assert catalogue.sequence == 1
    assert catalogue.num_wakes == 1
    catalogue.apply(change("a", 4, title="between, and late"))
    assert len(catalogue.log()) == 1


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (b"\xff", "not JSON"),
        (b'{"format": 9}', "not format 1"),
        (change("").to_bytes(), "item_id must have"),
        (change("x" * 257).to_bytes(), "item_id must have"),
        (change("a", title=3).to_bytes(), "wrong type"),
    ],
)
def test_an_unreadable_entry_becomes_a_dead_letter_with_the_reason(
    catalogue: LiveCatalogue, entry: bytes, reason: str
) -> None:
    catalogue.append(change("a", 1), entry, change("b", 2))
    consume(catalogue)
    assert catalogue.changed() == ["a", "b"]
    ((_, fields),) = catalogue.client.xrange(dead_letters_key(ITEM_CHANGES))
    assert reason in fields[DEAD_REASON_FIELD].decode()
    with pytest.raises(StreamEntryError, match=reason):
        catalogue.applier().parse(entry)


def test_two_appliers_never_assign_the_same_slot(catalogue: LiveCatalogue) -> None:
    class SlowApplier(ItemChangeApplier):
        """Another applier writes between its read and its transaction."""

        def _read(self, item_ids):  # type: ignore[no-untyped-def]
            standing = super()._read(item_ids)
            catalogue.apply(change("faster", 1))
            return standing

    slow = SlowApplier(
        StoreConnection(catalogue.url),
        numbering=no_numbers(),
        metrics=catalogue.metrics.of_stream(ITEM_CHANGES),
        on_applied=lambda: None,
    )
    slower = change("slower", 2)
    with pytest.raises(StoreConflict):
        slow.apply([Parsed(payload=slower.to_bytes(), value=slower)], [])
    assert catalogue.entry("slower") is None
    catalogue.apply(slower)
    assert [catalogue.place(item).slot for item in ("faster", "slower")] == [0, 1]
