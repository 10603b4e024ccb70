"""The model registry. The only module that imports mlflow, and only the supervisor uses it.

MLflow is imported on first use and called in threads: the import takes a second and 100 MB, its calls block, and a
server that serves a bundle folder does not need it.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from inference_server.core.errors import RegistryUnavailable
from tandem.contract.names import MODEL_VERSION_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient

_T = TypeVar("_T")

# MLflow's own defaults would retry for minutes, and by then the alias has been polled anew many times.
_MLFLOW_ENVIRONMENT: Final = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_CONFIGURE_LOGGING": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
_SQLITE: Final = "sqlite:///"
# What MLflow answers when there is no such model, or no such alias of it.
_NOTHING_THERE: Final = frozenset({"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"})


@dataclass(frozen=True)
class RegisteredVersion:
    """One version of the registered model."""

    number: str
    """The registry's number."""
    model_version: str
    """The bundle's own name, from the version's tag; empty where it has none."""
    source: str
    """URI of the bundle's folder."""


NO_VERSION: Final = RegisteredVersion("", "", "")
"""The version of a bundle that was given as a folder."""


class Registry:
    """One alias of one registered model: polled continuously, moved when an operator asks for it."""

    def __init__(self, uri: str, *, model_name: str, alias: str) -> None:
        self._uri = uri
        self._model_name = model_name
        self._alias = alias
        self._client: MlflowClient | None = None

    async def aliased_version(self) -> RegisteredVersion | None:
        """The version that the alias names; None while the alias does not exist. Raises RegistryUnavailable."""
        return await _in_thread(self._read_alias)

    async def move_alias(self, number: str) -> None:
        """Makes the alias name another version. Raises RegistryUnavailable, also when that version does not exist."""
        await _in_thread(lambda: self._move_alias(number))

    async def download(self, version: RegisteredVersion, into: Path) -> Path:
        """Downloads a version's bundle into a new folder under `into` and returns it. Raises RegistryUnavailable."""
        return await _in_thread(lambda: self._download(version, into))

    def _read_alias(self) -> RegisteredVersion | None:
        from mlflow.exceptions import MlflowException

        try:
            version = self._connect().get_model_version_by_alias(self._model_name, self._alias)
        except MlflowException as error:
            if error.error_code in _NOTHING_THERE:
                return None
            raise RegistryUnavailable(f"{self._uri}: {error}") from error
        except Exception as error:  # exceptions of SQLAlchemy, requests and the operating system all mean the same here
            raise RegistryUnavailable(f"{self._uri}: {error!r}") from error
        return RegisteredVersion(str(version.version), version.tags.get(MODEL_VERSION_TAG, ""), version.source or "")

    def _move_alias(self, number: str) -> None:
        client = self._connect()
        try:
            client.set_registered_model_alias(self._model_name, self._alias, number)
        except Exception as error:  # any of the exceptions above; the alias has not moved
            raise RegistryUnavailable(f"{self._uri}: {error}") from error

    def _download(self, version: RegisteredVersion, into: Path) -> Path:
        import mlflow.artifacts

        self._connect()
        try:
            path = mlflow.artifacts.download_artifacts(
                artifact_uri=version.source, dst_path=str(into), tracking_uri=self._uri
            )
        except (
            Exception
        ) as error:  # every artifact store raises its own exceptions; each means that the download failed
            raise RegistryUnavailable(f"version {version.number} from {version.source}: {error!r}") from error
        return Path(path)

    def _connect(self) -> MlflowClient:
        # MLflow would create a missing database, in the trainer's place and possibly in a race with it.
        if self._uri.startswith(_SQLITE) and not Path(self._uri.removeprefix(_SQLITE)).is_file():
            raise RegistryUnavailable(f"{self._uri}: there is no such file")
        if self._client is None:
            from mlflow import MlflowClient

            self._client = MlflowClient(tracking_uri=self._uri, registry_uri=self._uri)
        return self._client


async def _in_thread(call: Callable[[], _T]) -> _T:
    """Runs a blocking call in a daemon thread, so that one that hangs on the network does not hold up shutdown."""
    for name, value in _MLFLOW_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    loop = asyncio.get_running_loop()
    result: asyncio.Future[_T] = loop.create_future()

    def settle(value: _T | None, error: BaseException | None) -> None:
        if result.done():
            return
        if error is not None:
            result.set_exception(error)
        else:
            result.set_result(value)  # type: ignore[arg-type]

    def run() -> None:
        try:
            value, error = call(), None
        except BaseException as raised:  # handed to the awaiting task, which raises it
            value, error = None, raised
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, value, error)

    threading.Thread(target=run, name="registry", daemon=True).start()
    return await result
