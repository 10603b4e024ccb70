"""The faults: what is done to the stack, and undone."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sqlite3
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from benchmarks.faults.network import Damage
from benchmarks.faults.stack import Stack

_IDLE_CONNECTIONS: Final = 300
_FEW_FILES: Final = 128


@dataclass(frozen=True)
class Fault:
    """One row of the table."""

    name: str
    what: str
    """What happens, for the reader of the table."""
    inject: Callable[[Stack, float], Awaitable[None]]
    """Does the damage, waits for the duration in seconds, and undoes it. The duration is that of the row."""
    seconds: float = field(kw_only=True)
    workers: int = field(default=1, kw_only=True)
    worker_lives: bool = field(default=True, kw_only=True)
    """Whether every worker is alive and runs: then no Recommend call may fail."""


async def _kill_store(stack: Stack, seconds: float) -> None:
    await stack.store.kill()
    await asyncio.sleep(seconds)
    await stack.store.start()


async def _stop_store(stack: Stack, seconds: float) -> None:
    stack.store.pause()
    await asyncio.sleep(seconds)
    stack.store.resume()


async def _store_is_full(stack: Stack, seconds: float) -> None:
    async with stack.store.client() as client:
        await client.config_set("maxmemory", "1mb")
        await asyncio.sleep(seconds)
        await client.config_set("maxmemory", "0")


async def _full_disk(stack: Stack, seconds: float) -> None:
    # A file that may not grow ends the store as a full disk does: it must not acknowledge what it cannot write.
    resource.prlimit(stack.store.pid, resource.RLIMIT_FSIZE, (1, 1))
    await asyncio.sleep(seconds)
    await stack.store.kill()
    await stack.store.start()


async def _store_is_read_only(stack: Stack, seconds: float) -> None:
    async with stack.store.client() as client:
        # With a minimum of one replica and none connected, a master refuses every write.
        await client.config_set("min-replicas-to-write", "1")
        await asyncio.sleep(seconds)
        await client.config_set("min-replicas-to-write", "0")


async def _kill_worker(stack: Stack, seconds: float) -> None:
    os.kill(stack.worker_pids()[0], signal.SIGKILL)
    await asyncio.sleep(seconds)


async def _stop_worker(stack: Stack, seconds: float) -> None:
    pid = stack.worker_pids()[0]
    os.kill(pid, signal.SIGSTOP)
    await asyncio.sleep(seconds)
    _continue(pid)


async def _kill_fork_server(stack: Stack, seconds: float) -> None:
    os.kill(stack.fork_server_pid(), signal.SIGKILL)
    await asyncio.sleep(seconds)


async def _kill_supervisor(stack: Stack, seconds: float) -> None:
    await stack.kill_supervisor()
    await asyncio.sleep(seconds)
    await stack.start_server()


async def _stop_supervisor(stack: Stack, seconds: float) -> None:
    stack.server.process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(seconds)
    stack.server.process.send_signal(signal.SIGCONT)


async def _kill_sync(stack: Stack, seconds: float) -> None:
    await stack.sync.kill()
    await asyncio.sleep(seconds)
    await stack.sync.start()


async def _stop_sync(stack: Stack, seconds: float) -> None:
    stack.sync.send(signal.SIGSTOP)
    await asyncio.sleep(seconds)
    stack.sync.send(signal.SIGCONT)


async def _few_files(stack: Stack, seconds: float) -> None:
    pid = stack.worker_pids()[0]
    hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE, (_FEW_FILES, hard))
    idle = await asyncio.gather(
        *(asyncio.open_connection("127.0.0.1", stack.grpc_port) for _ in range(_IDLE_CONNECTIONS)),
        return_exceptions=True,
    )
    await asyncio.sleep(seconds)
    for connection in idle:
        if not isinstance(connection, BaseException):
            connection[1].close()
    resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


async def _registry_is_locked(stack: Stack, seconds: float) -> None:
    with _locked(str(stack.registry.database)):
        await asyncio.sleep(seconds)


@contextmanager
def _locked(database: str) -> Iterator[None]:
    connection = sqlite3.connect(database)
    try:
        connection.execute("BEGIN EXCLUSIVE")
        yield
    finally:
        connection.rollback()
        connection.close()


def _network(damage: Damage) -> Callable[[Stack, float], Awaitable[None]]:
    async def inject(stack: Stack, seconds: float) -> None:
        stack.proxy.damage(damage)
        await asyncio.sleep(seconds)
        stack.proxy.damage(Damage.NONE)

    return inject


def _continue(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        return  # the supervisor has replaced it


async def _nothing(_: Stack, seconds: float) -> None:
    await asyncio.sleep(seconds)


FAULTS: Final[Sequence[Fault]] = (
    Fault("none", "no fault", _nothing, seconds=5),
    Fault("kill_store", "kill -9 of the store, restarted after 5 s", _kill_store, seconds=5),
    Fault("stop_store", "SIGSTOP of the store for 10 s", _stop_store, seconds=10),
    Fault("store_full", "the store is out of memory for 8 s", _store_is_full, seconds=8),
    Fault("store_read_only", "the store refuses writes for 8 s", _store_is_read_only, seconds=8),
    Fault("store_disk_full", "the store's file cannot grow, which ends it; restarted after 8 s", _full_disk, seconds=8),
    Fault("delay", "every answer of the store 200 ms late for 8 s", _network(Damage.DELAY), seconds=8),
    Fault("black_hole", "the store's network drops all bytes for 8 s", _network(Damage.BLACK_HOLE), seconds=8),
    Fault("garbage", "random bytes in place of the store's answers for 4 s", _network(Damage.GARBAGE), seconds=4),
    Fault("reset", "every connection to the store reset for 4 s", _network(Damage.RESET), seconds=4),
    Fault("half_close", "the store's side of its connections closed for 2 s", _network(Damage.HALF_CLOSE), seconds=2),
    Fault("kill_sync", "kill -9 of feature_sync, restarted after 5 s", _kill_sync, seconds=5),
    Fault("stop_sync", "SIGSTOP of feature_sync for 10 s", _stop_sync, seconds=10),
    Fault("registry_locked", "the registry's database locked for 10 s", _registry_is_locked, seconds=10),
    Fault("few_files", "128 open files for the worker, 300 idle connections for 8 s", _few_files, seconds=8),
    Fault("stop_supervisor", "SIGSTOP of the supervisor for 10 s", _stop_supervisor, seconds=10),
    Fault("kill_fork_server", "kill -9 of the fork server", _kill_fork_server, seconds=8),
    Fault("kill_worker", "kill -9 of the only worker", _kill_worker, seconds=8, worker_lives=False),
    Fault("stop_worker", "SIGSTOP of the only worker for 10 s", _stop_worker, seconds=10, worker_lives=False),
    Fault(
        "stop_one_of_two_workers",
        "SIGSTOP of one of two workers for 10 s",
        _stop_worker,
        seconds=10,
        workers=2,
        worker_lives=False,
    ),
    Fault(
        "kill_supervisor",
        "kill -9 of the supervisor, started again after 1 s",
        _kill_supervisor,
        seconds=1,
        worker_lives=False,
    ),
)
"""All rows, in the order of the table."""
