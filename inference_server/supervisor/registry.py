"""The model registry as the supervisor calls it: in threads, because MLflow's calls block."""

from __future__ import annotations

import copy
from collections.abc import Collection
from pathlib import Path
from typing import Final

from inference_server.core.daemon_thread import in_daemon_thread
from inference_server.core.errors import RegistryUnavailable
from tandem.ops.bundle_download import download_in_child
from tandem.ops.mlflow_environment import set_mlflow_defaults
from tandem.ops.model_registry import ModelRegistry, RegisteredVersion
from tandem.ops.settings_types import is_version_number

NO_VERSION: Final = RegisteredVersion("", "", "")
"""The version of a bundle that was given as a folder."""


class Registry:
    """One alias of one registered model: polled continuously, moved when an operator asks for it."""

    def __init__(self, uri: str, *, model_name: str, alias: str, download_seconds: float = 600.0) -> None:
        """`alias` may be a version number instead: then the version is always that one. `download_seconds` bounds the
        download of one bundle."""
        # MLflow's own defaults retry for minutes; the alias is polled again long before that.
        set_mlflow_defaults(max_retries=1, timeout_seconds=5, progress_bars=False, own_logging=False)
        self._model = ModelRegistry(uri, model_name=model_name, raises=RegistryUnavailable)
        self._alias = alias
        self._download_seconds = download_seconds

    @property
    def alias(self) -> str:
        """The alias or version number that it is about."""
        return self._alias

    @property
    def model(self) -> ModelRegistry:
        """The registered model, whose calls block."""
        return self._model

    def of(self, alias: str) -> Registry:
        """Another alias, or version number, of the same model."""
        other = copy.copy(self)
        other._alias = alias
        return other

    @property
    def model_name(self) -> str:
        """Name of the registered model."""
        return self._model.model_name

    async def aliased_version(self) -> RegisteredVersion | None:
        """The version that the alias names; None while the alias does not exist. Raises RegistryUnavailable."""
        if is_version_number(self._alias):
            return await in_daemon_thread(lambda: self._model.numbered(self._alias))
        return await in_daemon_thread(lambda: self._model.aliased(self._alias))

    async def why_no_version(self) -> str:
        """Why `aliased_version` is None, with the names of the model and the alias. Raises RegistryUnavailable."""
        name = self.model_name
        if await in_daemon_thread(self._model.has_model):
            if is_version_number(self._alias):
                return f"the registered model {name!r} has no version {self._alias}"
            return f"the registered model {name!r} has no alias {self._alias!r}"
        return f"there is no registered model {name!r}; was it renamed?"

    async def names_of_models(self, named: Collection[str]) -> frozenset[str]:
        """All aliases of the model, and those of `named` that are numbers of its versions. Raises
        RegistryUnavailable."""

        def names() -> frozenset[str]:
            aliases = self._model.aliases()
            numbers = {name for name in named if name not in aliases and self._model.numbered(name) is not None}
            return frozenset((*aliases, *numbers))

        return await in_daemon_thread(names)

    async def move_alias(self, number: str) -> None:
        """Makes the alias name another version. Raises RegistryUnavailable, also when that version does not exist."""
        if is_version_number(self._alias):
            raise RegistryUnavailable(f"{self._alias} is a version number, and no alias that could name another")
        await in_daemon_thread(lambda: self._model.set_alias(self._alias, number))

    async def download(self, version: RegisteredVersion, into: Path) -> Path:
        """Downloads a version's bundle, in a child process, into a new folder under `into` and returns it. Raises
        RegistryUnavailable."""
        return await download_in_child(self._model, version, into, seconds=self._download_seconds)
