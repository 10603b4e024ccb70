"""The supervisor's handle on the fork server (`worker/fork_server.py`), and on the processes that it forks."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from dataclasses import asdict
from typing import Final

import structlog

from inference_server.core.errors import WorkerEnded
from inference_server.telemetry.statistics import WorkerIdentity

_log = structlog.get_logger()

_START_SECONDS: Final = 60.0
"""Time for the fork server to start and fork its first worker. Its imports take a second or two."""
_FORK_SECONDS: Final = 5.0
"""Time for a fork server that has forked before. One that exceeds it hangs, and is killed; its workers live on."""
_STATUS_SECONDS: Final = 1.0
_UNKNOWN_STATUS: Final = 1
_MAX_MESSAGE_BYTES: Final = 1024
_ENVIRONMENT: Final = {"MALLOC_ARENA_MAX": "1"}
"""One heap for all threads of a process instead of several, which saves 2 MB in each worker. Its threads share one core
and one interpreter lock, so they do not contend for the heap. The C library reads it when a process starts; a value
that the environment already has wins."""


class ForkedProcess:
    """A process that the fork server has forked. It is not a child of this process: a pidfd tells when it ends."""

    def __init__(self, pid: int, status: asyncio.Future[int]) -> None:
        """`status` is set when the fork server reports the exit status."""
        self.pid: Final = pid
        self._status = status
        self._ended = asyncio.Event()
        self._descriptor = -1
        try:
            self._descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            self._ended.set()
        else:
            asyncio.get_running_loop().add_reader(self._descriptor, self._mark_ended)

    async def wait(self) -> int:
        """Waits until the process ends. Returns its exit status, negative when a signal ended it."""
        await self._ended.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STATUS_SECONDS):
                return await asyncio.shield(self._status)
        return _UNKNOWN_STATUS  # the fork server, which alone could know it, has ended too

    def kill(self) -> None:
        """Kills the process; does nothing when it has already ended."""
        if not self._ended.is_set():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)

    def _mark_ended(self) -> None:
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)
        self._ended.set()


class ForkServerHandle:
    """Forks workers from one process, which is started on first use, and again when it has ended."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._socket: socket.socket | None = None
        self._turn = asyncio.Lock()
        self._forked: asyncio.Future[ForkedProcess] | None = None
        self._statuses: dict[int, asyncio.Future[int]] = {}
        self._has_forked = False
        """Whether the fork server that runs has forked a worker."""

    async def fork(self, identity: WorkerIdentity, control: socket.socket) -> ForkedProcess:
        """Forks a worker, which gets a copy of `control`. Raises WorkerEnded when the fork server does not fork one."""
        async with self._turn:
            while True:
                is_new = not self._has_forked
                try:
                    return await self._fork(identity, control)
                except (OSError, TimeoutError) as error:
                    process = self._process
                    self._drop()
                    if process is not None and process.returncode is None:
                        process.kill()
                    if is_new:
                        raise WorkerEnded(f"the fork server does not fork: {error!r}") from error
                    _log.warning("fork_server_replaced", reason=repr(error))

    async def _fork(self, identity: WorkerIdentity, control: socket.socket) -> ForkedProcess:
        if self._socket is None:
            await self._start()
        assert self._socket is not None
        self._forked = asyncio.get_running_loop().create_future()
        socket.send_fds(self._socket, [json.dumps(asdict(identity)).encode()], [control.fileno()])
        async with asyncio.timeout(_FORK_SECONDS if self._has_forked else _START_SECONDS):
            forked = await self._forked
        self._has_forked = True
        return forked

    async def close(self) -> None:
        """Ends the fork server. Workers live on."""
        process = self._process
        self._drop()
        if process is not None:
            try:
                async with asyncio.timeout(_STATUS_SECONDS):
                    await process.wait()
            except TimeoutError:  # it hangs
                process.kill()
                await process.wait()

    async def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "inference_server", "fork-server", "--control-fd", str(theirs.fileno())),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env={**_ENVIRONMENT, **os.environ},
            )
        ours.setblocking(False)
        self._socket = ours
        asyncio.get_running_loop().add_reader(ours, self._read)

    def _read(self) -> None:
        assert self._socket is not None
        try:
            message = self._socket.recv(_MAX_MESSAGE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if not message:
            self._drop()
            return
        fields = json.loads(message)
        if "forked" in fields:
            pid = fields["forked"]
            status = self._statuses[pid] = asyncio.get_running_loop().create_future()
            if self._forked is not None and not self._forked.done():
                self._forked.set_result(ForkedProcess(pid, status))
        elif (ended := self._statuses.pop(fields["ended"], None)) is not None:
            ended.set_result(fields["status"])

    def _drop(self) -> None:
        """Forgets the fork server; the next worker is forked from a new one."""
        self._has_forked = False
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None
        if self._forked is not None and not self._forked.done():
            self._forked.set_exception(ConnectionError("it has ended"))
        self._statuses.clear()
