"""Tells feature_sync, over the online store, which models answer beside the server's own, and how arms share users.

It then prepares vectors for these models, and reports compare users with the shares, without settings of
their own. `tandem.contract.announced` says where. A server without further models and experiments writes nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import structlog

from tandem.contract.announced import (
    KEPT_SECONDS,
    experiment_shares_key,
    served_models_key,
    shares_to_bytes,
)
from tandem.contract.experiments import ExperimentTable
from tandem.ops.secrets import redacted

if TYPE_CHECKING:
    from inference_server.store.redis_connections import AbstractConnection

_log = structlog.get_logger()

_LOOK_SECONDS: Final = 1.0
_RETRY_SECONDS: Final = 5.0
_REPEAT_SECONDS: Final = 60.0
_WRITE_SECONDS: Final = 5.0

_Shares = Mapping[str, Mapping[str, int]]


class Announcements:
    """Keeps the store up to date while `run` runs."""

    def __init__(self, store_url: str, *, model_name: str, models: Callable[[], Collection[str]]) -> None:
        """`models` returns the aliases and version numbers that answer beside the server's own now."""
        self._store_url = store_url
        self._models_key = served_models_key(model_name)
        self._models = models
        self._shares: _Shares = {}
        self._problem = ""

    def plan(self, table: ExperimentTable) -> None:
        """Notes the shares of a table that has come into force."""
        self._shares = table.shares

    async def run(self) -> None:
        """Writes what is new within a second, and all again every minute, until it is cancelled."""
        written: tuple[Sequence[str], _Shares] = ((), {})
        written_at = time.monotonic()
        while True:
            current = sorted(self._models()), self._shares
            is_due = current != written or time.monotonic() - written_at >= _REPEAT_SECONDS
            if any(current) and is_due and await self._write(*current):
                written, written_at = current, time.monotonic()
            await asyncio.sleep(_RETRY_SECONDS if self._problem else _LOOK_SECONDS)

    async def _write(self, models: Sequence[str], shares: _Shares) -> bool:
        """Whether the store took them. A store that is away or refuses is logged once."""
        # Most supervisors have nothing to tell, and do without the store's client.
        from inference_server.store.redis_connections import Connections

        connection = Connections(self._store_url).make()
        try:
            async with asyncio.timeout(_WRITE_SECONDS):
                if models:
                    now = int(time.time())
                    await _call(
                        connection, "ZADD", self._models_key, *(part for name in models for part in (now, name))
                    )
                    await _call(connection, "EXPIRE", self._models_key, KEPT_SECONDS)
                if shares:
                    fields = (part for name, arms in shares.items() for part in (name, shares_to_bytes(arms)))
                    await _call(connection, "HSET", experiment_shares_key(), *fields)
                    await _call(connection, "EXPIRE", experiment_shares_key(), KEPT_SECONDS)
        except Exception as error:  # whatever the store or the client raises, answers do not depend on it
            reason = redacted(str(error) or type(error).__name__)
            if not self._problem:
                effect = "feature_sync prepares the models of its own settings"
                _log.warning("models_not_announced", reason=reason, effect=effect)
            self._problem = reason
            return False
        finally:
            with suppress(Exception):
                await connection.disconnect(nowait=True)
        self._problem = ""
        return True


async def _call(connection: AbstractConnection, *command: str | bytes | int) -> None:
    await connection.send_command(*command)
    await connection.read_response(disable_decoding=True)
