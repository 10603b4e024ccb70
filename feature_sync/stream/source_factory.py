"""From the settings to a source: which kind of stream it is, and whether it lies in the online store."""

from __future__ import annotations

from typing import Final

from feature_sync.core.settings import Settings
from feature_sync.stream.redis_source import RedisSource
from feature_sync.stream.source import Source

_KAFKA: Final = "kafka://"


def open_source(settings: Settings, stream: str) -> Source:
    """The stream EVENTS or ITEM_CHANGES, as the settings place it. Connects later."""
    url = settings.events_url or settings.store_url
    if url.startswith(_KAFKA):
        from feature_sync.stream.kafka_source import KafkaSource

        return KafkaSource(url, stream, takeover_seconds=settings.takeover_seconds)
    return RedisSource(url, stream, takeover_seconds=settings.takeover_seconds, shares_store=url == settings.store_url)
