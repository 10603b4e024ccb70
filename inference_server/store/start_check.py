"""Refuses, at the start, an address that can never be a store. One that does not answer is not refused: it may come."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from inference_server.core.errors import SettingsError
from inference_server.store.redis_connections import Connections
from tandem.ops.secrets import without_password
from tandem.ops.store_health import health_of

_SECONDS: Final = 2.0


async def require_usable(setting: str, url: str) -> None:
    """Raises SettingsError, which names `setting`, if a cluster or a sentinel answers at `url`."""
    connection = Connections(url).make()
    health = None
    with contextlib.suppress(Exception):  # whatever is wrong now, the workers go on asking
        async with asyncio.timeout(_SECONDS):
            await connection.send_command("INFO")
            health = health_of(await connection.read_response(disable_decoding=True))
    await connection.disconnect(nowait=True)
    if health is not None and health.unusable:
        raise SettingsError(f"{setting}: {without_password(url)} cannot be used: {health.unusable}")
