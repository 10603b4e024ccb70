"""Refreshes the stored vectors of users whose states events have changed, under every bundle that users are answered
with, when there is time.

These vectors are only a cache: the server sees by the revision that a stored vector is stale, and computes it itself.
So the refresher yields to events: it pauses while events queue, works for at most a quarter of the time, and drops
users when too many wait.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Final

import structlog

from feature_sync.core.errors import StoreConflict, Unavailable
from feature_sync.core.progress import report_progress
from feature_sync.store.connection import StoreConnection
from feature_sync.telemetry.metrics import Metrics
from feature_sync.towers.user_tower import UserTower
from tandem.contract.bundle import Bundle
from tandem.contract.errors import StoreValueError
from tandem.contract.store import UserState, UserVector, user_state_key, user_vector_key

_USERS_AT_ONCE: Final = 32
"""Few, because the interpreter is shared with the thread that applies events."""
_MOST_WAITING: Final = 20_000
_LEAST_REST_SECONDS: Final = 0.2
"""Events of one user come in bursts; only the state after the last event is worth a vector."""
_REST_PER_WORK: Final = 3.0

_log = structlog.get_logger(__name__)


class UserVectorRefresher:
    """Refreshes vectors. `add`, `wake` and `stop` are for any thread, `step` and `run` for one thread."""

    def __init__(
        self,
        store: StoreConnection,
        *,
        served_bundles: Callable[[], Sequence[Bundle]],
        is_behind: Callable[[], bool],
        ttl_seconds: int,
        metrics: Metrics,
    ) -> None:
        """`is_behind` returns whether events queue."""
        self._store = store
        self._served_bundles = served_bundles
        self._is_behind = is_behind
        self._ttl_seconds = ttl_seconds
        self._metrics = metrics
        self._waiting: dict[str, None] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._towers: dict[str, UserTower | None] = {}
        """By model version; None: the tower has failed."""

    def add(self, user_ids: Collection[str]) -> None:
        """Notes that the states of users have changed."""
        with self._lock:
            if len(self._waiting) + len(user_ids) <= _MOST_WAITING:
                self._waiting.update(dict.fromkeys(user_ids))

    def stop(self) -> None:
        """Makes `run` end soon."""
        self._stop.set()

    def run(self) -> None:
        """Refreshes vectors until it is stopped."""
        rest_seconds = _LEAST_REST_SECONDS
        while not self._stop.wait(rest_seconds):
            report_progress()
            started = time.monotonic()
            # The server computes vectors that are missed here; the writer of a newer state has added the user again.
            with contextlib.suppress(Unavailable, StoreConflict):
                self.step()
            rest_seconds = max(_LEAST_REST_SECONDS, _REST_PER_WORK * (time.monotonic() - started))
            report_progress(may_take_seconds=rest_seconds)
        self._store.close()

    def step(self) -> None:
        """Refreshes vectors of the waiting users, until events queue. Raises StoreAway, StoreConflict."""
        for _ in range(len(self._waiting) // _USERS_AT_ONCE + 1):
            towers = self._usable_towers()
            if not towers or self._is_behind() or self._stop.is_set():
                return
            if user_ids := self._take():
                for model_version, tower in towers.items():
                    self._refresh(model_version, tower, user_ids)
                    report_progress()

    def _take(self) -> list[str]:
        with self._lock:
            taken = list(self._waiting)[:_USERS_AT_ONCE]
            for user_id in taken:
                del self._waiting[user_id]
        return taken

    def _refresh(self, model_version: str, tower: UserTower, user_ids: Sequence[str]) -> None:
        state_keys = [user_state_key(user_id) for user_id in user_ids]
        _, _, stored = self._store.run([("UNWATCH",), ("WATCH", *state_keys), ("MGET", *state_keys)])
        states = dict(_readable(zip(user_ids, stored, strict=True)))
        try:
            vectors = tower.vectors(list(states), list(states.values()))
        except Exception as error:  # whatever a library meets in a bundle: it must not end the program
            self._give_up(model_version, error)
            return
        expiry = ("EX", self._ttl_seconds) if self._ttl_seconds else ()
        self._store.transaction(
            [
                ("SET", user_vector_key(model_version, user_id), UserVector(state.revision, vector).to_bytes(), *expiry)
                for (user_id, state), vector in zip(states.items(), vectors, strict=True)
            ]
        )
        self._metrics.vectors_refreshed.inc(len(states))

    def _usable_towers(self) -> dict[str, UserTower]:
        bundles = {bundle.manifest.model_version: bundle for bundle in self._served_bundles()}
        self._towers = {version: tower for version, tower in self._towers.items() if version in bundles}
        for version, bundle in bundles.items():
            if version not in self._towers:
                try:
                    self._towers[version] = UserTower(bundle, threads=1)
                except Exception as error:  # as above
                    self._give_up(version, error)
        return {version: tower for version, tower in self._towers.items() if tower is not None}

    def _give_up(self, model_version: str, error: Exception) -> None:
        """A tower that fails once fails again."""
        self._towers[model_version] = None
        _log.error("user_vectors_stopped", model_version=model_version, error=repr(error))


def _readable(stored: Iterable[tuple[str, bytes | None]]) -> Iterator[tuple[str, UserState]]:
    for user_id, value in stored:
        if value is not None:
            with contextlib.suppress(StoreValueError):
                yield user_id, UserState.from_bytes(value)
