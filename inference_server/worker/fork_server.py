"""The fork server: the process that workers are forked from. It has imported everything that a worker needs.

Python and the libraries take 66 MB in a worker that has not opened anything yet. Forked workers share the pages that
they do not write; workers started separately would each have their own copy. To keep the fork safe, the fork server
runs no event loop and no thread, and opens neither a gRPC channel nor an engine: the worker does that.

It reads requests, each with the worker's end of a control socket, and reports the pid of every worker that it forks and
the exit status of every worker that ends.
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


def run_fork_server(control: socket.socket, run_worker: RunWorker) -> None:
    """Forks workers until the supervisor closes its end of `control`."""
    # These signals may reach every process of the server. The supervisor decides what they mean, and needs this process
    # to report how the workers end.
    for signal_number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(signal_number, signal.SIG_IGN)
    woken, waker = socket.socketpair()
    for end in (woken, waker):
        end.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
    # The collector writes into every object it visits, and a page that is written is no longer shared.
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
    """Forks one worker. Returns False when the supervisor has gone."""
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
            # Not sys.exit: the worker must not unwind the fork server's stack.
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
    except OSError:  # the supervisor has gone: the next read from the socket returns nothing
        return
