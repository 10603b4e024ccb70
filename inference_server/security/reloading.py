"""Reloads certificates and keys whose files change while the server runs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final, Protocol

import structlog

from inference_server.core.errors import SettingsError
from inference_server.telemetry.statistics import Statistics

_log = structlog.get_logger()

POLL_SECONDS: Final = 1.0


class Reloadable(Protocol):
    """Content of files that can be reloaded."""

    what: str
    """Name in logs and metrics."""

    def reload_if_changed(self) -> bool:
        """Returns True if the files have changed and their new content is in use now. Raises SettingsError if they have
        changed and cannot be used; the old content stays in use. Called from a thread, never concurrently."""


async def keep_current(
    sources: Iterable[Reloadable], statistics: Statistics, *, poll_seconds: float = POLL_SECONDS
) -> None:
    """Reloads changed files until it is cancelled. A file that cannot be used is logged and counted once for each
    change."""
    sources = tuple(sources)
    while sources:
        await asyncio.sleep(poll_seconds)
        for source in sources:
            try:
                # In a thread, because access to a file system may hang.
                if await asyncio.to_thread(source.reload_if_changed):
                    statistics.files_reloaded[source.what] += 1
                    _log.info("files_reloaded", what=source.what)
            except SettingsError as error:
                statistics.files_refused[source.what] += 1
                _log.error("files_refused", what=source.what, reason=str(error))
