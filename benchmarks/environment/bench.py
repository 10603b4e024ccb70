"""The environment of every scenario: store, catalogues with published users, servers on the served core, durations."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks.environment.machine import children, fork_servers, load_cores, move, on_served_core, resident_megabytes
from benchmarks.load.metrics import Scrape, scrape
from benchmarks.synthetic import catalogues
from benchmarks.synthetic.catalogues import SPECS, BuiltCatalogue
from benchmarks.synthetic.users import publish
from tandem.v1 import recommendation_pb2 as pb
from tests.support.serving import Server, Valkey, serve, wait_until

DEADLINE_MS: Final = 50
"""The server's own default, which every scenario keeps."""

_START_SECONDS: Final = 240.0
_USERS: Final = 32
_QUICK_CATALOGUE: Final = "tiny"


class Tandem:
    """A running inference server, with its ports, metrics, processes and memory."""

    def __init__(self, server: Server, *, http_port: int) -> None:
        self.server = server
        self.grpc_port = server.grpc_port
        self.http_port = http_port
        """0 if the server has no HTTP."""

    async def scrape(self) -> Scrape:
        """Reads the server's /metrics."""
        return await scrape(self.server.metrics_port)

    def workers(self) -> list[int]:
        """Process ids of the workers."""
        return [worker for fork_server in fork_servers(self.server.process.pid) for worker in children(fork_server)]

    def resident_megabytes(self) -> float:
        """Sum of the workers' resident memory, in MB."""
        return sum(resident_megabytes(pid) for pid in self.workers())


class Bench:
    """One run of the benchmark."""

    def __init__(self, *, folder: Path, catalogue_dir: Path, store: Valkey, quick: bool) -> None:
        self.folder = folder
        self.store = store
        self.quick = quick
        self.results: dict[str, Any] = {}
        """Results so far, by scenario."""
        self._catalogue_dir = catalogue_dir
        self._open: dict[str, BuiltCatalogue] = {}
        self._servers = 0

    def opened(self) -> list[BuiltCatalogue]:
        """The catalogues that scenarios have opened so far."""
        return list(self._open.values())

    def seconds(self, full: float, quick: float = 1.0) -> float:
        """Duration of a measurement: `full`, or `quick` in a quick run."""
        return quick if self.quick else full

    async def catalogue(self, name: str) -> BuiltCatalogue:
        """Opens a catalogue, built if necessary, and publishes its users; in a quick run always the tiny catalogue."""
        name = _QUICK_CATALOGUE if self.quick else name
        if name not in self._open:
            built = catalogues.build(SPECS[name], self._catalogue_dir)
            await publish(built.users, built.bundle, self.store.url)
            self._open[name] = built
        return self._open[name]

    def requests(self, catalogue: BuiltCatalogue, **fields: Any) -> list[pb.RecommendRequest]:
        """One request for each of 32 users, a tenth of whom have no stored vector."""
        users = catalogue.users
        spread = [index * len(users) // _USERS // 10 * 10 for index in range(_USERS)]
        chosen = [user + (index * 3) % 10 for index, user in enumerate(spread)]
        return [pb.RecommendRequest(user_id=users.user_id(user), num_items=10, **fields) for user in chosen]

    @asynccontextmanager
    async def tandem(
        self, catalogue: BuiltCatalogue | None = None, *, move_supervisor: bool = True, **settings: object
    ) -> AsyncIterator[Tandem]:
        """A server on the served core that serves a catalogue or, without one, the bundle that `settings` name.

        The supervisor, which downloads and checks bundles, moves to the other cores unless `move_supervisor` is false.
        """
        self._servers += 1
        chosen: dict[str, object] = {
            "deadline_ms": DEADLINE_MS,
            "http_port": 0,
            "store_url": self.store.url,
            **settings,
        }
        if catalogue is not None:
            chosen["bundle_path"] = catalogue.bundle.directory.resolve()
        with on_served_core():
            serving = serve(self.folder / f"server-{self._servers}", until_serving=False, **chosen)
            server = await serving.__aenter__()
        try:
            if move_supervisor:
                move(server.process.pid, load_cores())

            async def is_serving() -> bool:
                return await server.serving_status() == "SERVING"

            await wait_until(is_serving, "health is SERVING", patience_seconds=_START_SECONDS)
            listening = await server.log("server_listening")
            yield Tandem(server, http_port=int(listening.get("http_port") or 0))
        finally:
            await serving.__aexit__(None, None, None)

    @asynccontextmanager
    async def program(self, module: str, *arguments: str, **environment: str) -> AsyncIterator[int]:
        """Runs a server program that prints its port on the served core; yields the port."""
        process = await self._on_served_core(module, *arguments, **environment)
        try:
            assert process.stdout is not None
            async with asyncio.timeout(_START_SECONDS):
                port = int(await process.stdout.readline())
            yield port
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()

    async def output(self, module: str, *arguments: str) -> dict[str, Any]:
        """Runs a program on the served core until it ends; returns the JSON object that it prints."""
        process = await self._on_served_core(module, *arguments)
        printed, _ = await process.communicate()
        if process.returncode:
            raise RuntimeError(f"{module} ended with status {process.returncode}")
        result: dict[str, Any] = json.loads(printed)
        return result

    async def _on_served_core(self, module: str, *arguments: str, **environment: str) -> asyncio.subprocess.Process:
        with on_served_core():
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", module, *arguments),
                stdout=asyncio.subprocess.PIPE,
                # On one core, further threads of a numerical library only wait for each other.
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", **environment},
            )


def say(text: str) -> None:
    """Prints a line of progress with the time."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)
