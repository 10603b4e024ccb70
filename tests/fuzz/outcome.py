"""What both fuzz runs record, the server they are sent to, and what must hold of it afterwards."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.support.serving import Server, serve, valkey
from tests.support.tiny_bundle import TinySpec, build_tiny_bundle

MAX_FAULTS: Final = 20
_MAX_GROWTH_BYTES: Final = 64 << 20
"""In the second half of a short run; allocators give some memory back only later."""


@dataclass(kw_only=True)
class FuzzOutcome:
    """How the calls of a run ended."""

    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)
    """Calls that the server answered as its own fault, with their status and beginning; at most MAX_FAULTS."""
    resident_bytes: list[int] = field(default_factory=list)
    """Memory of the server's processes, at equal distances of the run."""

    def add_fault(self, line: str) -> None:
        """Keeps one of the first faults."""
        if len(self.faults) < MAX_FAULTS:
            self.faults.append(line)

    @property
    def growth_bytes(self) -> int:
        """How much memory grew in the second half of the run: the first fills caches."""
        second = self.resident_bytes[len(self.resident_bytes) // 2 :]
        return second[-1] - second[0] if second else 0


@asynccontextmanager
async def fuzzed_server(folder: Path) -> AsyncIterator[Server]:
    """Runs a server with a tiny bundle and a store during the block."""
    bundle = build_tiny_bundle(folder / "bundle", TinySpec())
    async with (
        valkey(folder / "store") as store,
        serve(folder / "data", bundle_path=bundle.directory, store_url=store.url, deadline_ms=20_000) as server,
    ):
        yield server


def assert_unharmed(server: Server, outcome: FuzzOutcome) -> None:
    """Asserts that no call ended as a fault of the server, and that its memory and its log are as before."""
    assert not outcome.faults
    assert outcome.growth_bytes < _MAX_GROWTH_BYTES
    assert not server.unparsed, "every line of the log is JSON"
    assert not [line for line in server.logs if "exception" in line], "no stack trace"


def resident_bytes(pid: int) -> int:
    """Memory of a process and of all its descendants."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    try:
        resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
        return resident + sum(resident_bytes(int(child)) for child in children.read_text().split())
    except (FileNotFoundError, ProcessLookupError):
        return 0  # it has ended in the meantime
