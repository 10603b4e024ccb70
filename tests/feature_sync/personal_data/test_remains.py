"""What an account says that no command erases."""

from __future__ import annotations

from feature_sync.core.settings import Settings
from feature_sync.personal_data.all_places import all_places, remains
from feature_sync.store.connection import StoreConnection


def test_a_topic_of_kafka_keeps_its_messages_until_its_retention_is_over() -> None:
    on_kafka, in_the_store = Settings(events_url="kafka://127.0.0.1:1"), Settings()
    (topic,) = [entry for entry in remains(on_kafka, "ann") if "tandem.events" in entry.what]
    assert "retention" in topic.until
    assert not [entry for entry in remains(in_the_store, "ann") if "Kafka" in entry.what]
    with StoreConnection(on_kafka.store_url) as store:
        for settings, has_stream in ((on_kafka, False), (in_the_store, True)):
            with all_places(settings, store, names_items=False) as places:
                assert ("event_stream" in {place.name for place in places}) == has_stream


def test_every_remainder_says_until_when() -> None:
    assert all(entry.what and entry.until for entry in remains(Settings(events_url="kafka://127.0.0.1:1"), "ann"))


def test_a_short_id_is_not_looked_for_in_what_cannot_be_read() -> None:
    assert [
        bool([entry for entry in remains(Settings(), user) if "dead letters" in entry.what]) for user in ("196", "ann1")
    ] == [
        True,
        False,
    ]
