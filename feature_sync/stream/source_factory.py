"""Makes a source from the settings: Redis or Kafka, in the online store or not."""

from __future__ import annotations

from typing import Final

from feature_sync.core.settings import Settings
from feature_sync.stream.redis_source import RedisSource
from feature_sync.stream.source import Source

_KAFKA: Final = "kafka://"


def is_kafka(url: str) -> bool:
    """Whether the address of a stream is Kafka's, and not that of a Redis or Valkey."""
    return url.startswith(_KAFKA)


def open_source(settings: Settings, stream: str) -> Source:
    """The source of the stream EVENTS or ITEM_CHANGES. Does not connect yet."""
    url = settings.events_url or settings.store_url
    if is_kafka(url):
        from feature_sync.stream.kafka_source import KafkaSource

        return KafkaSource(url, stream, takeover_seconds=settings.takeover_seconds)
    return RedisSource(url, stream, takeover_seconds=settings.takeover_seconds, shares_store=url == settings.store_url)
