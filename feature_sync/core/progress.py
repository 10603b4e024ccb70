"""Signs of life of the parts of `feature_sync run`. A part whose thread waits for something that never comes looks like
one that has nothing to do, so each reports whenever it goes on; its silence then tells the two apart.

The report goes to the thread's own record and not through the part's constructor, because what takes long lies several
calls below the part, in functions that commands use too. There a report does nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_this_thread = threading.local()


class Progress:
    """When one part reported last. Callable from any thread, but for `begin`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._due_at = clock()

    def begin(self) -> None:
        """From now on, this is the record of the calling thread."""
        _this_thread.progress = self
        self.report(0.0)

    def report(self, may_take_seconds: float) -> None:
        """See `report_progress`."""
        self._due_at = self._clock() + may_take_seconds

    @property
    def silent_seconds(self) -> float:
        """Seconds since the last report, less what it had announced; at least 0."""
        return max(0.0, self._clock() - self._due_at)


def report_progress(*, may_take_seconds: float = 0.0) -> None:
    """Reports that the calling thread's part goes on.

    `may_take_seconds` announces a step that takes so long by itself, as a long rest or an answer with a time limit.
    """
    progress: Progress | None = getattr(_this_thread, "progress", None)
    if progress is not None:
        progress.report(may_take_seconds)
