"""Resources of a worker process, read from /proc by the supervisor, so that they are known for a hanging worker too."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True)
class ProcessUsage:
    """Resources of one process now."""

    resident_memory_bytes: int
    """Physical memory; pages shared with other processes count in full."""
    cpu_seconds: float
    """Processor time since the process started."""
    num_threads: int
    open_fds: int


def usage(pid: int) -> ProcessUsage | None:
    """The resources that a process uses; None if the process has ended."""
    process = Path("/proc", str(pid))
    try:
        # The name, in parentheses, may hold spaces; field 3 follows it.
        fields = (process / "stat").read_text().rpartition(")")[2].split()
        open_fds = len(os.listdir(process / "fd"))  # noqa: PTH208 - only the count is needed
    except OSError:
        return None
    return ProcessUsage(
        resident_memory_bytes=int(fields[21]) * _PAGE_BYTES,
        cpu_seconds=(int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND,
        num_threads=int(fields[17]),
        open_fds=open_fds,
    )
