"""Opens the stream that the settings name."""

from __future__ import annotations

from inference_server.core.settings import Settings
from inference_server.events.redis_stream import RedisStream
from inference_server.events.stream import EventStream


def open_stream(settings: Settings) -> EventStream:
    """The stream of the settings, which connects on first use. Raises SettingsError."""
    url = settings.events_url or settings.store_url
    if url.startswith("kafka://"):
        # Imported here, because Kafka's client is an extra that most servers do not install.
        from inference_server.events.kafka_stream import KafkaStream

        return KafkaStream(url, wait_ms=int(settings.events_deadline_ms))
    return RedisStream(url, fsync=settings.events_durability == "fsync", wait_ms=int(settings.events_deadline_ms))
