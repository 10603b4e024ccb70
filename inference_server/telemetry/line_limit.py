"""A limit of log lines, for what callers cause: whoever can call could otherwise fill a disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from typing import Final

_MAX_KINDS: Final = 1_000


class LineLimit:
    """Lets one line a second through of each kind, and counts what it leaves out."""

    def __init__(self, *, seconds: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._kinds: dict[Hashable, tuple[float, int]] = {}

    def admit(self, kind: Hashable) -> int | None:
        """How many lines of this kind were left out since the last one; None: leave this one out as well."""
        now = self._clock()
        found = self._kinds.get(kind)
        if found is not None and now < found[0]:
            self._kinds[kind] = (found[0], found[1] + 1)
            return None
        if found is None and len(self._kinds) >= _MAX_KINDS:
            self._kinds.clear()
        self._kinds[kind] = (now + self._seconds, 0)
        return 0 if found is None else found[1]
