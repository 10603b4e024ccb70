"""The places of the feature store: the offline sources, and Feast's values in the online store.

Where nothing was applied, neither is looked at: Feast is an optional package.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from feature_sync.core.settings import Settings
from feature_sync.personal_data import parquet_rows
from feature_sync.personal_data.place import Record, Subject, erased_from
from feature_sync.store.connection import StoreConnection
from tandem.contract import names

_FOLDER: Final = "features"


class FeatureSources:
    """The offline sources of users: the rows of the past, and those observed."""

    name = "feature_sources"

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir / _FOLDER
        self.where = str(self._folder)

    def find(self, user: Subject) -> Sequence[Record]:
        """See `Place`."""
        return parquet_rows.records_of_user(self._folder, self._files(), user.user_id)

    def erase(self, user: Subject) -> int:
        """See `Place`. Raises FeatureStoreError while another process writes the sources."""
        if not self._files():
            return 0
        from feature_sync.features.sources import Sources

        with Sources(self._folder) as sources, sources.locked():
            return erased_from(self._files(), lambda path: parquet_rows.erase_user(path, user.user_id))

    def _files(self) -> list[Path]:
        paths = [*self._folder.glob("[!.]*.parquet"), *self._folder.glob("observed/[!.]*.parquet")]
        return [path for path in sorted(paths) if parquet_rows.has_users(path)]


class FeatureKeys:
    """Feast's values of the user in the online store."""

    name = "feature_store_online"

    def __init__(self, settings: Settings, store: StoreConnection) -> None:
        self.where = f"{store.name}: Feast's key of the user"
        self._settings = settings
        self._store = store

    def find(self, user: Subject) -> Sequence[Record]:
        """See `Place`."""
        if not self._is_applied():
            return []
        from feature_sync.features.feast_store import FeastStore

        with FeastStore(self._settings) as feast:
            if not self._store.call("EXISTS", *feast.online_keys(names.USER_ID, [user.user_id])):
                return []
            views = [view for view in feast.views() if view.entity == names.USER_ID]
            return [{view.name: feast.online(view, [user.user_id])[user.user_id] for view in views}]

    def erase(self, user: Subject) -> int:
        """See `Place`."""
        if not self._is_applied():
            return 0
        from feature_sync.features.feast_store import FeastStore

        with FeastStore(self._settings) as feast:
            return int(self._store.call("DEL", *feast.online_keys(names.USER_ID, [user.user_id])))

    def _is_applied(self) -> bool:
        return (self._settings.data_dir / _FOLDER / "registry.db").is_file()
