"""Files that may be replaced while a program runs: certificates and keys.

Their metadata is polled: inotify misses changes on network file systems, and the symbolic links that Kubernetes swaps
to replace a mounted secret.
"""

from __future__ import annotations

from pathlib import Path


class WatchedFiles:
    """Detects whether files have changed since the last call."""

    def __init__(self, *paths: Path) -> None:
        self._paths = paths
        self._seen = self._look()

    def changed(self) -> bool:
        """Whether any file has been written, replaced or removed since the last call."""
        # Stored before the files are read: a write during the read is a change for the next call.
        seen, self._seen = self._seen, self._look()
        return seen != self._seen

    def _look(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(_identity(path) for path in self._paths)


def _identity(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
