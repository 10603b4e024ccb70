"""Watches the online store itself: whether it lost its states, evicts keys, or is no master any more.

Events go on being applied to a store that was emptied, so nothing else of `feature_sync run` would notice it. What must
not wait for an operator then is the register of deleted users: it is restored from the data folder at once.
"""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import Final

import structlog

from feature_sync.core.errors import StoreError
from feature_sync.core.progress import report_progress
from feature_sync.store.connection import StoreConnection
from feature_sync.store.deleted_users import agree
from feature_sync.telemetry.metrics import Metrics
from tandem.contract.errors import DeletedUsersUnreadable
from tandem.contract.store import deleted_users_key, populated_key, published_key
from tandem.ops.deleted_users_file import read_deleted_users
from tandem.ops.store_health import health_of

_EVERY_SECONDS: Final = 2.0
_EMPTY: Final = "empty"
_EVICTS: Final = "evicts"
_REPLICA: Final = "replica"

_log = structlog.get_logger(__name__)


class StoreWatch:
    """A part that looks at the store every two seconds, and logs what changes."""

    def __init__(self, store: StoreConnection, metrics: Metrics, data_dir: Path) -> None:
        """`data_dir` holds the other copy of the register of deleted users."""
        self._store = store
        self._data_dir = data_dir
        self._register_problem = ""
        self._metrics = metrics
        self._stop = threading.Event()
        self._problems: dict[str, str] = {}
        self._has_searched = False
        for kind in (_EMPTY, _EVICTS, _REPLICA):
            metrics.store_problem.labels(kind).set(0)

    def stop(self) -> None:
        """Makes `run` end soon. Callable from any thread."""
        self._stop.set()

    def run(self) -> None:
        """Watches until it is stopped. A store that does not answer is the other parts' to report."""
        while not self._stop.is_set():
            report_progress()
            with contextlib.suppress(StoreError):
                self.look()
            self._stop.wait(_EVERY_SECONDS)
        self._store.close()

    def look(self) -> None:
        """Looks once. Raises StoreError if the store does not answer, or is not to be used."""
        problems: dict[str, str] = {}
        try:
            is_empty = not self._store.call("EXISTS", populated_key()) and not self._was_published_before()
        except StoreError:
            if self._store.health.refusal:
                self._report({_REPLICA: self._store.health.refusal})
            raise
        if is_empty:
            problems[_EMPTY] = (
                "the store holds no published states: it was emptied, or never filled; `python -m feature_sync "
                "rebuild` restores what archive and prepared data hold"
            )
        with contextlib.suppress(StoreError):  # a managed server may not allow the question
            self._store.health = health_of(self._store.call("INFO"))
        if self._store.health.warning:
            problems[_EVICTS] = self._store.health.warning
        if self._store.health.refusal:
            problems[_REPLICA] = self._store.health.refusal
            self._store.close()  # the address may lead to another server next time
        else:
            self.keep_register()
        self._report(problems)

    def keep_register(self) -> None:
        """Makes the two registers of deleted users agree if they differ in length. Raises StoreError."""
        problem = ""
        try:
            if self._store.call("HLEN", deleted_users_key()) != len(read_deleted_users(self._data_dir)):
                agree(self._store, self._data_dir)
        except (DeletedUsersUnreadable, OSError) as error:
            problem = str(error)
        if problem and problem != self._register_problem:
            _log.error("deleted_users_unreadable", reason=problem, effect="deleted users may come back")
        self._register_problem = problem

    def _was_published_before(self) -> bool:
        """Whether a release that set no lasting mark has published here; sets the mark then. Looks once."""
        cursor = b"" if self._has_searched else b"0"
        self._has_searched = True
        while cursor:
            report_progress()
            cursor, found = self._store.call("SCAN", cursor, "MATCH", published_key("*"), "COUNT", 1000)
            if found:
                self._store.call("SET", populated_key(), self._store.call("GET", found[0]) or b"")
                return True
            cursor = b"" if cursor == b"0" else cursor
        return False

    def _report(self, problems: dict[str, str]) -> None:
        for kind in (_EMPTY, _EVICTS, _REPLICA):
            if kind in problems and kind not in self._problems:
                _log.warning(f"store_{kind}", reason=problems[kind])
            elif kind in self._problems and kind not in problems:
                _log.info(f"store_{kind}_no_more")
            self._metrics.store_problem.labels(kind).set(kind in problems)
        self._problems = problems
