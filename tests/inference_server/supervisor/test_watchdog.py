"""Workers and fork servers that are alive and do not answer are replaced; starved workers and a stalled machine are not
punished."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import structlog

from deploy.local.ports import free_port
from inference_server.supervisor.watchdog import Watchdog
from inference_server.telemetry.statistics import WorkerIdentity
from tandem.contract.bundle import Bundle
from tests.support.serving import serve, wait_until

pytestmark = pytest.mark.process

NO_STORE = f"redis://127.0.0.1:{free_port()}/0"
SPINS = "import inference_server.worker.heartbeat as h; h.show_stacks_on_request(); print(flush=True)\nwhile True: pass"
SLEEPS = "import inference_server.worker.heartbeat as h; h.show_stacks_on_request(); print(flush=True); input()"


@dataclass(eq=False)
class Program:
    """A program in a worker's place."""

    process: asyncio.subprocess.Process
    last_sign_at: float
    identity: WorkerIdentity = field(default_factory=lambda: WorkerIdentity(worker=1, num_workers=1))
    killed: bool = False

    @property
    def pid(self) -> int:
        return self.process.pid

    def kill(self) -> None:
        self.killed = True
        self.process.kill()


class Clock:
    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return asyncio.get_running_loop().time() + self.ahead


@asynccontextmanager
async def program(code: str, clock: Clock) -> AsyncIterator[Program]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    await process.stdout.readline()
    try:
        yield Program(process, clock())
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@asynccontextmanager
async def watched(watchdog: Watchdog, *programs: Program) -> AsyncIterator[None]:
    watching = asyncio.create_task(watchdog.run(lambda: [one for one in programs if not one.killed]))
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


@pytest.mark.parametrize(("code", "where"), [(SPINS, "line 2"), (SLEEPS, "line 1")])
async def test_the_log_says_where_a_hanging_worker_is(code: str, where: str) -> None:
    clock = Clock()
    with structlog.testing.capture_logs() as logs:
        async with program(code, clock) as one, watched(Watchdog(patience_seconds=0.5, clock=clock), one):
            await wait_until(lambda: one.killed, "it is killed")
    line: dict[str, Any] = next(line for line in logs if line["event"] == "worker_hangs")
    assert where in line["stacks"]
    assert line["pid"] == one.pid


async def test_a_supervisor_that_was_stopped_kills_nobody() -> None:
    clock = Clock()
    async with program(SLEEPS, clock) as one, watched(Watchdog(patience_seconds=3600, clock=clock), one):
        await asyncio.sleep(0.3)
        clock.ahead += 7200.0
        await asyncio.sleep(0.5)
        assert not one.killed


async def test_workers_that_fall_silent_together_are_killed_one_after_the_other() -> None:
    clock = Clock()
    watchdog = Watchdog(patience_seconds=1.0, clock=clock)
    async with program(SLEEPS, clock) as one, program(SLEEPS, clock) as other, watched(watchdog, one, other):
        await wait_until(lambda: one.killed or other.killed, "one is killed")
        assert not (one.killed and other.killed)
        await wait_until(lambda: one.killed and other.killed, "both are killed")


async def test_a_stopped_worker_and_a_stopped_fork_server_are_replaced(tmp_path: Path, bundle: Bundle) -> None:
    async with serve(tmp_path, bundle_path=bundle.directory, store_url=NO_STORE, worker_hang_seconds=1) as server:
        stopped = await server.worker_pid(1)
        os.kill(parent_of(stopped), signal.SIGSTOP)
        os.kill(stopped, signal.SIGSTOP)
        assert (await server.log("worker_hangs", pid=stopped))["stacks"].startswith("not known")
        await server.log("fork_server_replaced")

        async def replaced() -> bool:
            return await server.worker_pid(1) != stopped

        await wait_until(replaced, "another worker answers")
        async with server.connection() as connection:
            assert len((await connection.recommend()).items) == 10


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
