"""One connection to a Redis or Valkey: any number of commands in one round trip, and transactions of plain commands.

Applying events takes thousands of small commands a second, too many for redis-py's client, through which `online_store`
publishes. A command here is a plain tuple, so that the parts of a transaction (states, counters, trending, the log) are
functions that return commands, which the applier combines.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, Self

import redis
from redis.backoff import NoBackoff
from redis.connection import ConnectionPool
from redis.retry import Retry

from feature_sync.core.errors import SettingsError, StoreAway, StoreConflict, StoreError
from tandem.ops.secrets import without_password
from tandem.ops.store_health import StoreHealth, health_of
from tandem.ops.store_words import explained, own_words

Command = tuple[str | bytes | int | float, ...]
"""A command's name and its arguments."""

_TIMEOUT_SECONDS: Final = 5.0
_MULTI: Final[Command] = ("MULTI",)
_EXEC: Final[Command] = ("EXEC",)


class StoreConnection:
    """A connection that is opened on first use, and reopened after it was lost. Not thread-safe."""

    def __init__(self, url: str) -> None:
        """Does not connect yet. `url` has redis-py's form."""
        self.health = StoreHealth()
        """What the server said of itself when the connection was opened last."""
        # The pool is only used as a factory. Nothing is retried here: the caller must restart a transaction.
        pool = ConnectionPool.from_url(
            url,
            socket_timeout=_TIMEOUT_SECONDS,
            socket_connect_timeout=_TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )
        self._connection: Any = pool.make_connection()  # redis-py does not type its methods
        self._is_open = False
        self._url = url
        self.name = without_password(url)
        """The URL, as messages show it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection; another command would open a new one."""
        self._is_open = False
        self._connection.disconnect()

    def call(self, *command: str | bytes | int | float) -> Any:
        """Executes one command; returns its undecoded reply. Raises the exceptions of `run`."""
        return self.run([command])[0]

    def run(self, commands: Sequence[Command]) -> list[Any]:
        """Executes commands in one round trip; returns their undecoded replies.

        Raises StoreAway if the store does not answer or refuses for a temporary reason (it loads its data, its memory
        is full), and StoreError if a command is invalid. Reads that end in an error leave no WATCH behind.
        """
        replies = self._exchange(commands)
        for reply in replies:
            if isinstance(reply, redis.ResponseError):
                self.close()
                raise self._refusal(reply)
        return replies

    def transaction(self, commands: Sequence[Command]) -> list[Any]:
        """Executes commands in one MULTI/EXEC, all or nothing; returns their replies.

        Raises StoreConflict if a key that is watched on this connection was changed meanwhile, else the exceptions of
        `run`. After StoreAway it is unknown whether the commands were executed.
        """
        *queued, replies = self._exchange([_MULTI, *commands, _EXEC])
        for reply in (*queued, replies):
            # A refused command makes EXEC fail with EXECABORT; the command's own error says more.
            if isinstance(reply, redis.ResponseError):
                self.close()
                raise self._refusal(reply)
        if replies is None:
            raise StoreConflict(f"the online store {self.name}: a watched key was changed by another writer")
        return list(replies)

    def _exchange(self, commands: Sequence[Command]) -> list[Any]:
        connection = self._connection
        try:
            if not self._is_open:
                self._open()
            connection.send_packed_command(connection.pack_commands(commands), check_health=False)
            return [self._read() for _ in commands]
        except (redis.RedisError, OSError) as error:
            self.close()
            raise StoreAway(unreachable(self._url, error)) from error

    def _open(self) -> None:
        """Connects, and leaves a server to which nothing must be written: the address may lead elsewhere later."""
        connection = self._connection
        connection.connect()
        connection.send_packed_command(connection.pack_commands([("PING",), ("INFO",)]), check_health=False)
        pong, info = self._read(), self._read()
        # A managed server may not allow the questions.
        if pong != b"PONG" and not isinstance(pong, redis.ResponseError):
            self.close()
            raise StoreAway(f"the online store {self.name} is not a Redis or Valkey: it answers PING with {pong!r:.60}")
        self.health = health_of(info) if isinstance(info, bytes) else StoreHealth()
        if self.health.refusal:
            self.close()
            raise StoreAway(f"the online store {self.name} cannot be used: {self.health.refusal}")
        self._is_open = True

    def _read(self) -> Any:
        """A reply. An error reply is returned as an exception, not raised, so that the later replies are read too."""
        try:
            return self._connection.read_response(disable_decoding=True)
        except redis.ConnectionError:
            raise
        except redis.ResponseError as error:
            return error

    def _refusal(self, error: redis.ResponseError) -> StoreError:
        words = own_words(error) or ""
        lasting = words.startswith(("WRONGTYPE", "wrong type", "ERR unknown command", "ERR wrong number"))
        return (StoreError if lasting else StoreAway)(f"the online store {self.name} refused: {words}")


class StoreClock:
    """The store's clock, in seconds since 1970: all consumers of one store divide time into the same periods."""

    def __init__(self, connection: StoreConnection) -> None:
        self._connection = connection
        self._offset_seconds: float | None = None

    def now(self) -> float:
        """The store's time, which is read once and advanced by this machine's clock. Raises StoreAway."""
        if self._offset_seconds is None:
            seconds, microseconds = self._connection.call("TIME")
            self._offset_seconds = int(seconds) + int(microseconds) / 1e6 - time.monotonic()
        return self._offset_seconds + time.monotonic()


def unreachable(url: str, error: BaseException) -> str:
    """The message for an error of a connection: the store's own words where it refused, and never a password."""
    verb = "refused" if own_words(error) is not None else "cannot be reached"
    return f"the online store {without_password(url)} {verb}: {explained(url, error)}"


def require_usable(setting: str, url: str) -> None:
    """Raises SettingsError, which names `setting`, if a cluster or a sentinel answers at `url`.

    A store that does not answer is no reason to refuse: it may come.
    """
    with StoreConnection(url) as store:
        with contextlib.suppress(StoreError):
            store.call("PING")
        if store.health.unusable:
            raise SettingsError(f"{setting}: {without_password(url)} cannot be used: {store.health.unusable}")
