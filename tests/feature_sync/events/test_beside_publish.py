"""Events that arrive while a publish writes the same users: neither overwrites the effects of the other."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from feature_sync.core.settings import Settings
from feature_sync.publish.publish import publish
from tandem.contract import names
from tandem.contract.bundle import Bundle
from tandem.contract.vocabulary import id_keys
from tests.feature_sync.conftest import ITEM_IDS
from tests.feature_sync.event_rig import Rig, Stream, running
from tests.feature_sync.ledger import NUM_USERS, Ledger
from tests.feature_sync.prepared_data import Interaction
from tests.support.waiting import wait_until

pytestmark = pytest.mark.process


def test_history_and_events_are_both_there(
    stream: Stream, prepare: Callable[..., Path], bundle: Bundle, tmp_path: Path
) -> None:
    users = [f"user-{number}" for number in range(NUM_USERS)]
    # Ratings of items that do not occur in the ledger, which contains no ratings.
    data = prepare([Interaction(user, f"old {item}", timestamp=1) for user in users for item in ITEM_IDS[:5]])
    settings = Settings(store_url=stream.url, data_dir=tmp_path, store_retry_seconds=60)
    ledger = Ledger(stream.client, events_per_second=2_000)
    rig = Rig(stream.url, batch_entries=50)
    publishes = threading.Thread(
        target=lambda: [publish(settings, data, bundle_dir=bundle.directory, force=True) for _ in range(3)]
    )
    with running(rig):
        ledger.start()
        wait_until(lambda: len(stream.applied()) > 500, "events flow")
        publishes.start()
        publishes.join(timeout=60)
        assert not publishes.is_alive()
        ledger.stop()
        wait_until(lambda: stream.num_left == 0, "all events are applied")
    old = set(id_keys(f"old {item}" for item in ITEM_IDS[:5]).tolist())
    for user in users:
        events = [event for event in ledger.events.values() if event.user_id == user]
        state = stream.state(user)
        counts = Counter({"rating": 5}) + Counter(event.type for event in events)
        assert dict(zip(names.EVENT_TYPES, state.event_counts.tolist(), strict=True)) == {
            event_type: counts[event_type] for event_type in names.EVENT_TYPES
        }
        chosen = {event.item_id for event in events if event.type != "impression"}
        assert set(state.seen_item_keys.tolist()) == old | set(id_keys(chosen).tolist())
    ledger.check_item_counters()
    assert len(stream.applied()) == len(ledger.events)
