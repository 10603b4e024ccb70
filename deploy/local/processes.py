"""Child processes that never outlive the stack.

Every child leads its own process group, so that a Ctrl-C in the terminal reaches only the stack, which then stops its
children in reverse order: SIGTERM, a bounded wait, SIGKILL to the rest of the group. If the stack itself is killed with
SIGKILL, Linux sends its children SIGTERM (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

from deploy.local.errors import ChildFailed

_TAIL_BYTES: Final = 8_192
_TAIL_LINES: Final = 25
_READ_BYTES: Final = 65_536
_PIPES_CLOSE_SECONDS: Final = 5.0
_PR_SET_PDEATHSIG: Final = 1
_LIBC: Final = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


@dataclass(kw_only=True)
class Child:
    """One child process and its output."""

    name: str
    process: asyncio.subprocess.Process
    log: BinaryIO
    keeps_stdout: bool
    """Whether it is a step, whose result is on stdout; a service's output goes to its log alone."""
    echo: bool
    """Whether its stderr is shown immediately."""
    stdout: bytearray = field(default_factory=bytearray)
    tail: bytearray = field(default_factory=bytearray)
    stopping: bool = False

    def failure(self) -> ChildFailed:
        """Describes how the process ended, with its last lines of output."""
        code = self.process.returncode or 0
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        # A progress bar overwrites itself with carriage returns: only its last state is shown.
        lines = [
            line.rstrip("\r").rpartition("\r")[2] for line in self.tail.decode(errors="replace").rstrip().split("\n")
        ]
        shown = "\n".join(f"    {line}" for line in lines[-_TAIL_LINES:])
        return ChildFailed(f"{self.name} {how}; log: {self.log.name}; its last lines:\n{shown or '    (none)'}")


class Children:
    """The children of this process. Leaving the context stops them all, the newest first."""

    def __init__(self, log_dir: Path, *, grace_seconds: float) -> None:
        """Logs go to `log_dir`/NAME.log. A child has `grace_seconds` to stop."""
        self._log_dir = log_dir
        self._grace_seconds = grace_seconds
        self._children: list[Child] = []
        self._tasks: dict[int, list[asyncio.Task[None]]] = {}
        self._first_failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def __aenter__(self) -> Self:
        self._log_dir.mkdir(parents=True, exist_ok=True)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for child in reversed(self._children):
            child.stopping = True
        while self._children:
            await self._stop(self._children.pop())
        if not self._first_failure.cancel() and not self._first_failure.cancelled():
            self._first_failure.exception()  # retrieved, so that asyncio does not report it as well

    async def start(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> Child:
        """Starts a service: a child that must run until it is stopped. Its output goes only to its log."""
        child = await self._spawn(name, command, environment, keeps_stdout=False, echo=False)
        self._tasks[child.process.pid].append(asyncio.create_task(self._watch(child)))
        return child

    async def run(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        allowed: Collection[int] = (0,),
        echo: bool = True,
    ) -> str:
        """Runs a step to its end and, with `echo`, shows its stderr. Returns its stdout. Raises ChildFailed for an exit
        status that is not `allowed`."""
        child = await self._spawn(name, command, environment, keeps_stdout=True, echo=echo)
        await child.process.wait()
        await self._stop(child)
        self._children.remove(child)
        if child.process.returncode not in allowed:
            raise child.failure()
        return child.stdout.decode(errors="replace")

    async def failure(self) -> None:
        """Waits until a service ends by itself, then raises ChildFailed."""
        await asyncio.shield(self._first_failure)

    async def _spawn(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], *, keeps_stdout: bool, echo: bool
    ) -> Child:
        process = await asyncio.create_subprocess_exec(
            *command,
            env=dict(environment),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )
        # Nothing awaits from here to the end of this method, so that a cancellation finds the child in the list.
        log = (self._log_dir / f"{name}.log").open("wb", buffering=0)
        child = Child(name=name, process=process, log=log, keeps_stdout=keeps_stdout, echo=echo)
        self._children.append(child)
        self._tasks[process.pid] = [
            asyncio.create_task(_pump(child, process.stdout, is_stdout=True)),
            asyncio.create_task(_pump(child, process.stderr, is_stdout=False)),
        ]
        return child

    async def _watch(self, child: Child) -> None:
        await child.process.wait()
        # The last lines have the reason; they are in the pipes, which a grandchild may hold open.
        await asyncio.wait(self._tasks[child.process.pid][:2], timeout=1.0)
        if not child.stopping and not self._first_failure.done():
            self._first_failure.set_exception(child.failure())

    async def _stop(self, child: Child) -> None:
        if child.process.returncode is None:
            with contextlib.suppress(TimeoutError, ProcessLookupError):
                child.process.terminate()
                await asyncio.wait_for(child.process.wait(), self._grace_seconds)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.process.pid, signal.SIGKILL)
        await child.process.wait()
        if tasks := self._tasks.pop(child.process.pid, []):
            _, unfinished = await asyncio.wait(tasks, timeout=_PIPES_CLOSE_SECONDS)
            for task in unfinished:
                task.cancel()
        child.log.close()


async def _pump(child: Child, stream: asyncio.StreamReader | None, *, is_stdout: bool) -> None:
    assert stream is not None
    while data := await stream.read(_READ_BYTES):
        child.log.write(data)
        child.tail += data
        del child.tail[:-_TAIL_BYTES]
        if is_stdout and child.keeps_stdout:
            child.stdout += data
        elif child.echo and not is_stdout:
            sys.stderr.buffer.write(data)
            sys.stderr.buffer.flush()


def _die_with_parent() -> None:
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
