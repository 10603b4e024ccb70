"""The stack under test: Valkey behind a proxy, an inference server, `feature_sync run` and an MLflow registry."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pyarrow.parquet as pq
from grpc_health.v1 import health_pb2

from benchmarks.environment.machine import children, fork_servers
from benchmarks.faults.network import FaultyProxy, faulty_proxy
from deploy.local.ports import free_port
from tandem.contract import names
from tandem.contract.streams import ENTRY_FIELD, EVENTS, Event, applied_key, stream_key
from tests.support.serving import MlflowRegistry, Server, Valkey, serve, valkey, wait_until
from tests.support.tiny_bundle import TinySpec, build_tiny_bundle, state_of

NUM_USERS: Final = 200
NUM_ITEMS: Final = 500
_MODEL: Final = "faults"
_GRACE_SECONDS: Final = 60.0


class Sync:
    """`feature_sync run` as a process that may be killed and started again."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self._environment = environment
        self._log = log
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Starts the process."""
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "feature_sync", "run"), env=self._environment, stdout=log, stderr=log
            )

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to the process."""
        assert self._process is not None
        self._process.send_signal(number)

    async def kill(self) -> None:
        """kill -9."""
        assert self._process is not None
        self._process.kill()
        await self._process.wait()

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL for a process that ignores it."""
        if self._process is None or self._process.returncode is not None:
            return
        self._process.send_signal(signal.SIGCONT)
        self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), _GRACE_SECONDS)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


@dataclass(kw_only=True)
class Stack:
    """The running stack."""

    folder: Path
    store: Valkey
    proxy: FaultyProxy
    registry: MlflowRegistry
    sync: Sync
    grpc_port: int
    workers: int
    settings: Mapping[str, object] = field(default_factory=dict)
    """Further settings of the server, as of `serve`."""
    server: Server = field(init=False)
    _serving: AsyncExitStack = field(default_factory=AsyncExitStack)

    @property
    def store_url(self) -> str:
        """The store as the programs reach it: through the proxy."""
        return f"redis://127.0.0.1:{self.proxy.port}/0"

    async def start_server(self) -> None:
        """Starts the server, on the same port as before, and waits until it serves."""
        self.server = await self._serving.enter_async_context(
            serve(
                self.folder / "server",
                grpc_port=self.grpc_port,
                deadline_ms=50,
                workers=self.workers,
                store_url=self.store_url,
                registry_uri=self.registry.uri,
                model_name=_MODEL,
                **self.settings,
            )
        )

    async def kill_supervisor(self) -> None:
        """kill -9 of the supervisor; its workers end when they notice."""
        self.server.process.kill()
        await self.server.process.wait()

    async def stop_server(self) -> None:
        """Stops the server."""
        await self._serving.aclose()

    def worker_pids(self) -> list[int]:
        """Process ids of the workers."""
        return [pid for fork_server in fork_servers(self.server.process.pid) for pid in children(fork_server)]

    def fork_server_pid(self) -> int:
        """Process id of the process that the workers are forked from."""
        return fork_servers(self.server.process.pid)[0]

    async def is_serving(self) -> bool:
        """Whether the health service says SERVING within its deadline."""
        try:
            answer = await self.server.health.Check(health_pb2.HealthCheckRequest(), timeout=1.0)
        except Exception:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def until_applied(self) -> None:
        """Waits until `feature_sync run` has applied every recorded event."""
        async with self.store.client() as client:

            async def is_empty() -> bool:
                return bool(await client.xlen(stream_key(EVENTS)) == 0)

            await wait_until(is_empty, "every recorded event is applied", patience_seconds=_GRACE_SECONDS)

    async def applied_event_ids(self) -> list[str]:
        """Ids of the events that were applied, from the archive and from the log that is not archived yet."""
        files = sorted((self.folder / "sync" / EVENTS).glob("day=*/*.parquet"))
        # One file at a time, without the partitions that the folders' names would add.
        ids = [event_id for file in files for event_id in pq.ParquetFile(file).read()[names.EVENT_ID].to_pylist()]
        async with self.store.client() as client:
            logged = await client.xrange(applied_key(EVENTS))
        return ids + [Event.from_bytes(fields[ENTRY_FIELD]).event_id for _, fields in logged if fields.get(ENTRY_FIELD)]


@asynccontextmanager
async def running_stack(
    folder: Path, registry: MlflowRegistry, *, workers: int = 1, **settings: object
) -> AsyncIterator[Stack]:
    """Runs a stack with 200 users during the block, its server with `settings`. `registry` comes from
    `registry_with_a_model`."""
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(valkey(folder / "store"))
        for number in range(NUM_USERS):
            await store.put(f"user-{number}", state_of([f"item-{number}", f"item-{number + 1}"]))
        proxy = await stack.enter_async_context(faulty_proxy(store.port))
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("TANDEM_")},
            "TANDEM_STORE_URL": f"redis://127.0.0.1:{proxy.port}/0",
            "TANDEM_DATA_DIR": str(folder / "sync"),
            "TANDEM_SYNC_METRICS_PORT": "0",
            "TANDEM_REGISTRY_URI": registry.uri,
            "TANDEM_MODEL_NAME": _MODEL,
            "TANDEM_ARCHIVE_SECONDS": "1",
        }
        running = Stack(
            folder=folder,
            store=store,
            proxy=proxy,
            registry=registry,
            sync=Sync(environment, folder / "sync.log"),
            grpc_port=free_port(),
            workers=workers,
            settings=settings,
        )
        stack.push_async_callback(running.stop_server)
        stack.push_async_callback(running.sync.stop)
        await running.start_server()
        await running.sync.start()
        yield running


def registry_with_a_model(folder: Path) -> MlflowRegistry:
    """Makes a registry with a bundle of 500 items under the champion's alias."""
    build_tiny_bundle(folder / "bundle", TinySpec(num_items=NUM_ITEMS, item_item_weight=0.3, content_weight=0.2))
    registry = MlflowRegistry(folder / "registry")
    registry.register(folder / "bundle", model_name=_MODEL, model_version="tiny-1", alias=names.CHAMPION)
    return registry
