"""Opens the stream that the settings name."""

from __future__ import annotations

from collections.abc import Sequence

from inference_server.core.settings import Settings
from inference_server.events.redis_stream import RedisStream
from inference_server.events.stream import EventStream
from tandem.contract.streams import EVENTS, ITEM_CHANGES


def is_kafka(url: str) -> bool:
    """Whether the address of a stream is Kafka's, and not that of a Redis or Valkey."""
    return url.startswith("kafka://")


def open_stream(settings: Settings, streams: Sequence[str] = (EVENTS, ITEM_CHANGES)) -> EventStream:
    """The stream of the settings, for entries of `streams`, which connects on first use. Raises SettingsError."""
    url = settings.events_url or settings.store_url
    if is_kafka(url):
        # Imported here, because Kafka's client is an extra that most servers do not install.
        from inference_server.events.kafka_stream import KafkaStream

        return KafkaStream(url, wait_ms=int(settings.events_deadline_ms), streams=streams)
    return RedisStream(
        url,
        fsync=settings.events_durability == "fsync",
        wait_ms=int(settings.events_deadline_ms),
        num_replicas=settings.events_wait_replicas,
        replicas_wait_ms=int(settings.events_wait_replicas_ms),
        streams=streams,
    )
