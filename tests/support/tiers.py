"""Three tiers of tests: without a marker, `process` and `slow`. A guard keeps the first tier light.

A test without a marker starts no process, listens on no port and opens no database of a registry or a study.
`make unit` runs these tests. A fixture counts as part of the test that requests it first.
"""

from __future__ import annotations

import functools
import multiprocessing.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import grpc
import pytest
from grpc.aio._server import Server

MARKERS: Final = ("process", "slow")

_EVENTS: Final = frozenset(
    {
        *("subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.exec", "os.system"),
        *("socket.bind", "sqlite3.connect"),
    }
)
"""Python's audit events that stand for a process, a port or a database."""


class NotAUnitTestError(BaseException):
    """A test without a marker did something that only tests of the tiers `process` and `slow` may do.

    Not an Exception: code under test that handles every error must not swallow it.
    """


class Guard:
    """A pytest plugin that raises NotAUnitTestError where a test without a marker starts something."""

    def __init__(self) -> None:
        self._watching = False
        # An audit hook cannot be removed; between tests it does nothing.
        sys.addaudithook(self._audit)
        # gRPC servers, which listen in C, and processes that multiprocessing spawns raise no audit event.
        of_grpc = ((grpc, "server"), (grpc.aio, "server"), (Server, "start"))
        for module, name in (*of_grpc, (multiprocessing.util, "spawnv_passfds")):
            setattr(module, name, self._guarded(getattr(module, name)))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Iterator[None]:
        with self._watched(item):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        with self._watched(item):
            return (yield)

    @contextmanager
    def _watched(self, item: pytest.Item) -> Iterator[None]:
        self._watching = not any(item.get_closest_marker(name) for name in MARKERS)
        try:
            yield
        finally:
            self._watching = False

    def _audit(self, event: str, _: tuple[object, ...]) -> None:
        if self._watching and event in _EVENTS:
            self._refuse(event)

    def _guarded(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            if self._watching:
                self._refuse(f"{function.__module__}.{function.__qualname__}")
            return function(*args, **kwargs)

        return guarded

    def _refuse(self, what: str) -> None:
        raise NotAUnitTestError(f"{what} in a test without a marker: mark it `process`, or `slow` if it trains")
