"""Everything that Tandem holds of a user, as one document."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from feature_sync.core.settings import Settings
from feature_sync.personal_data.all_places import all_places, remains
from feature_sync.personal_data.place import UNREACHABLE, Subject, problem_line
from feature_sync.store.connection import StoreConnection

_FOREVER: Final = (1 << 63) - 1


def export_user(settings: Settings, user_id: str) -> tuple[dict[str, object], bool]:
    """Returns (the document, whether every place could be read). A place that cannot be read says why."""
    user, places, is_complete = Subject(user_id, _FOREVER), dict[str, object](), True
    with StoreConnection(settings.store_url) as store, all_places(settings, store, names_items=True) as found:
        for place in found:
            try:
                places[place.name] = {"where": place.where, "records": list(place.find(user))}
            except UNREACHABLE as error:
                places[place.name] = {"where": place.where, "problem": problem_line(error, settings.data_dir)}
                is_complete = False
    document: dict[str, object] = {
        "user_id": user_id,
        "exported_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "complete": is_complete,
        "places": places,
        "not_included": [entry.what for entry in remains(settings, user_id)],
    }
    return document, is_complete
