"""Makes the applier of events from the settings."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from feature_sync.core.settings import Settings
from feature_sync.events.applier import EventApplier, EventRules
from feature_sync.events.event_rule import ServedEventRule
from feature_sync.events.trending import trending_of
from feature_sync.store.connection import StoreConnection
from feature_sync.telemetry.metrics import StreamMetrics
from tandem.contract.bundle import Bundle


def event_applier(
    settings: Settings,
    store: StoreConnection,
    metrics: StreamMetrics,
    *,
    event_rule: ServedEventRule,
    on_changed_users: Callable[[Collection[str]], None] = lambda _: None,
    live_bundles: Callable[[], Sequence[Bundle]] = lambda: (),
) -> EventApplier:
    """An applier with the rules of the settings."""
    return EventApplier(
        store,
        rules=EventRules(
            mark_seconds=settings.event_id_seconds,
            rule=event_rule.current,
            unknown_item_seconds=settings.unknown_item_seconds,
        ),
        trending=trending_of(settings),
        metrics=metrics,
        on_changed_users=on_changed_users,
        live_bundles=live_bundles,
    )
