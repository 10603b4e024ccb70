"""The process that workers are forked from. It has imported everything that a worker needs, and does nothing else.

Python and the libraries take 66 MB of a worker before it has opened anything. Forked, workers share what they do not
write of that; started one by one, each has its own. So that a fork is safe, the template runs no event loop and no
thread, and opens neither a gRPC channel nor an engine: those begin in the worker.

It reads requests, each with a worker's end of a control socket, and says which process it became and with which status
that ended.
"""

from __future__ import annotations

import gc
import json
import os
import selectors
import signal
import socket
from collections.abc import Callable

from inference_server.telemetry.statistics import WorkerIdentity

MAX_REQUEST_BYTES = 1024

RunWorker = Callable[[WorkerIdentity, socket.socket], int]
"""Runs a worker to its end; returns its exit status."""


def run_template(control: socket.socket, run_worker: RunWorker) -> None:
    """Forks workers until the supervisor is gone."""
    # These may reach every process of the server. What they mean the supervisor decides, and it needs to know how the
    # workers end.
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, signal.SIG_IGN)
    woken, waker = socket.socketpair()
    for end in (woken, waker):
        end.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
    # The collector writes into every object it looks at, and a page that is written is shared no more.
    gc.collect()
    gc.freeze()
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        selector.register(woken, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is woken:
                    woken.recv(4096)
                    _report_ended(control)
                elif not _fork(control, (woken, waker), run_worker):
                    return


def _fork(control: socket.socket, wakers: tuple[socket.socket, ...], run_worker: RunWorker) -> bool:
    """Makes one worker. False: the supervisor is gone."""
    request, descriptors, _, _ = socket.recv_fds(control, MAX_REQUEST_BYTES, 1)
    if not request:
        return False
    fields = json.loads(request)
    pid = os.fork()
    if pid == 0:
        signal.set_wakeup_fd(-1)
        for signal_number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(signal_number, signal.SIG_DFL)
        for inherited in (control, *wakers):
            inherited.close()
        status = 1
        try:
            status = run_worker(WorkerIdentity(**fields), socket.socket(fileno=descriptors[0]))
        finally:
            # Not sys.exit: what the template has on its stack is not the worker's to unwind.
            os._exit(status)
    os.close(descriptors[0])
    _send(control, {"forked": pid})
    return True


def _report_ended(control: socket.socket) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        _send(control, {"ended": pid, "status": os.waitstatus_to_exitcode(status)})


def _send(control: socket.socket, message: dict[str, int]) -> None:
    try:
        control.send(json.dumps(message).encode())
    except OSError:  # the supervisor is gone: the next read says so
        return
