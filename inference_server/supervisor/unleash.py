"""Unleash's official client, in the supervisor alone. The only module that imports it.

Its threads ask the server and never see a request: what they learn goes to the event loop, and from there to the
workers as a finished table. The client keeps nothing on disk: the last good table is kept elsewhere, after its check.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog

from inference_server.core.daemon_thread import in_daemon_thread
from inference_server.core.errors import SettingsError
from inference_server.core.settings import Settings
from inference_server.supervisor.experiment_sources import Definitions
from tandem.contract.whole_files import read_whole
from tandem.ops.secrets import redacted, remember_secrets, without_password
from tandem.ops.watched_files import WatchedFiles

if TYPE_CHECKING:
    from UnleashClient.clients.unleash_client import UnleashClient

_log = structlog.get_logger()

_LIBRARY_LOG: Final = "UnleashClient"
_NOT_A_FAILURE: Final = ("Error loading features", "Some features", "{", "[", "Unleash client does not have cached")
"""Lines on definitions that did arrive, which are checked here in words, and what follows from an earlier line."""
_REQUEST_SECONDS: Final = 5
_MAX_TOKEN_BYTES: Final = 4096
_TOKEN_POLL_SECONDS: Final = 1.0


async def follow_unleash(settings: Settings, definitions: Definitions) -> None:
    """Keeps `definitions` as Unleash has them until it is cancelled. An Unleash that is away is asked again."""
    assert settings.unleash_token_file is not None
    watched = WatchedFiles(settings.unleash_token_file)
    token = await asyncio.to_thread(read_token, settings.unleash_token_file)
    client = await in_daemon_thread(lambda: _started(settings, token, definitions))
    try:
        while True:
            await asyncio.sleep(_TOKEN_POLL_SECONDS)
            if await asyncio.to_thread(watched.changed):
                try:
                    token = await asyncio.to_thread(read_token, settings.unleash_token_file)
                except SettingsError as error:
                    _log.warning("unleash_token_refused", reason=str(error))
                    continue
                client.unleash_custom_headers = {"Authorization": token}
                _log.info("unleash_token_changed")
    finally:
        # Not waited for: a request of the client may take seconds, and its threads end with the process.
        threading.Thread(target=client.destroy, name="unleash-end", daemon=True).start()


def read_token(path: Path) -> str:
    """The token in a file, which no message will show from now on. Raises SettingsError."""
    try:
        token = read_whole(path, max_bytes=_MAX_TOKEN_BYTES).decode("ascii", "replace").strip()
    except OSError as error:
        raise SettingsError(f"TANDEM_UNLEASH_TOKEN_FILE: {path} cannot be read: {error.strerror}") from error
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise SettingsError(f"TANDEM_UNLEASH_TOKEN_FILE: {path} must hold one token, printable and without blanks")
    remember_secrets({"UNLEASH_TOKEN": token})
    return token


def _started(settings: Settings, token: str, definitions: Definitions) -> UnleashClient:
    from UnleashClient.cache import BaseCache
    from UnleashClient.clients.unleash_client import UnleashClient
    from UnleashClient.constants import ETAG, FEATURES_URL

    class Memory(BaseCache):
        """The client's cache, by which it is seen what Unleash answered: the definitions, or that they are as before.

        The client reads the ETag before it asks, writes the definitions if they are new, and reads them after it has
        asked, whatever came of it.
        """

        def __init__(self) -> None:
            self._values: dict[str, Any] = {}

        def set(self, key: str, value: Any) -> None:
            """Keeps a value."""
            self._values[key] = value
            if key == FEATURES_URL:
                definitions.answered(value)

        def mset(self, data: dict[str, Any]) -> None:
            """Keeps several values, which come from the client itself."""
            self._values.update(data)

        def get(self, key: str, default: Any = None) -> Any:
            """A kept value."""
            if key == ETAG:
                failures.since_asked = 0
            elif key == FEATURES_URL and not failures.since_asked:
                definitions.answered(None)
            return self._values.get(key, default)

        def exists(self, key: str) -> bool:
            """Whether a value is kept."""
            return key in self._values

        def destroy(self) -> None:
            """Forgets everything."""
            self._values.clear()

    failures = _Failures(definitions)
    _hear(failures)
    client = UnleashClient(
        url=settings.unleash_url,
        app_name=settings.unleash_app_name,
        instance_id=f"{settings.unleash_app_name}-supervisor",
        refresh_interval=settings.unleash_refresh_seconds,
        request_timeout=_REQUEST_SECONDS,
        request_retries=0,
        disable_metrics=True,  # Unleash counts evaluations by its clients; here they happen in the workers
        custom_headers={"Authorization": token},
        cache=Memory(),
    )
    client.initialize_client()
    return client


class _Failures(logging.Handler):
    """Takes the client's lines: why Unleash did not answer becomes the problem of the source, once."""

    def __init__(self, definitions: Definitions) -> None:
        super().__init__(logging.WARNING)
        self._definitions = definitions
        self.since_asked = 0
        """Lines since the client began to ask."""

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps the reason, without the traceback."""
        reason = redacted(record.getMessage()).partition("\n")[0]
        if reason.startswith(_NOT_A_FAILURE) or reason.endswith("feature fetch failed!"):
            return
        self.since_asked += 1
        self._definitions.failed(reason.partition("due to exception: ")[2] or reason)


def _hear(failures: _Failures) -> None:
    logger = logging.getLogger(_LIBRARY_LOG)
    logger.propagate = False
    logger.setLevel(logging.WARNING)
    logger.handlers = [failures]


def origin_of(settings: Settings) -> str:
    """The server, without secrets."""
    return f"unleash:{without_password(settings.unleash_url)}"
