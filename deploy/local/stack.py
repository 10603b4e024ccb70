"""The stack's steps: store, train, publish, serve. Read `run` and `smoke` downwards.

Each step is a command that containers run too. If a registry exists already, the server and feature_sync are started
beside the training step: they load their libraries and the current champion while the data are checked.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from deploy.local.client import SERVICE, check_answer, recommend, wait_until_serving
from deploy.local.errors import ChildFailed, NotReady
from deploy.local.ports import HOST, free_port, require_free, store_answers, wait_for_store
from deploy.local.processes import Children
from deploy.local.settings import Settings
from tandem.ops.settings_types import sqlite_file

NUM_ITEMS: Final = 10
_READY_SECONDS: Final = 120.0
_GRPCURL_SECONDS: Final = 30
# Longer than the server's own grace period, so that the server can shut down by itself.
_GRACE_SECONDS: Final = 15.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to run; decided before any process starts."""

    train_arguments: tuple[str, ...]
    """Arguments of `python -m trainer train`, after --if-needed."""
    registry_uri: str
    store_url: str
    store_data_dir: Path
    log_dir: Path
    grpc_port: int
    http_port: int
    metrics_port: int
    sync_metrics_port: int
    variables: Mapping[str, str] = field(default_factory=dict)
    """Further environment variables of every child."""

    @property
    def address(self) -> str:
        """Where the server answers."""
        return f"{HOST}:{self.grpc_port}"

    @property
    def environment(self) -> dict[str, str]:
        """Environment of every child: this process's, with the variables of the plan."""
        return {
            **os.environ,
            "PYTHONUNBUFFERED": "1",
            "TANDEM_REGISTRY_URI": self.registry_uri,
            "TANDEM_STORE_URL": self.store_url,
            "TANDEM_HOST": HOST,
            "TANDEM_GRPC_PORT": str(self.grpc_port),
            "TANDEM_HTTP_PORT": str(self.http_port),
            "TANDEM_METRICS_PORT": str(self.metrics_port),
            "TANDEM_SYNC_METRICS_PORT": str(self.sync_metrics_port),
            **self.variables,
        }

    @property
    def store_environment(self) -> dict[str, str]:
        """Environment of the store and of the processes that archive its events: each store has its own archive."""
        return {**self.environment, "TANDEM_DATA_DIR": str(self.store_data_dir)}


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A running stack."""

    model_version: str
    sample_user_id: str


def run(settings: Settings, train_arguments: tuple[str, ...]) -> int:
    """Brings the stack up on its usual ports and keeps it up until Ctrl-C or SIGTERM. Returns the exit status, 0.

    Raises StackError.
    """
    plan = Plan(
        train_arguments=train_arguments,
        registry_uri=settings.registry_uri,
        store_url=settings.store_url,
        store_data_dir=settings.data_dir,
        log_dir=settings.data_dir / "logs",
        grpc_port=require_free(settings.grpc_port, "TANDEM_GRPC_PORT"),
        http_port=require_free(settings.http_port, "TANDEM_HTTP_PORT"),
        metrics_port=require_free(settings.metrics_port, "TANDEM_METRICS_PORT"),
        sync_metrics_port=require_free(settings.sync_metrics_port, "TANDEM_SYNC_METRICS_PORT"),
    )

    async def work(children: Children) -> None:
        ready = await _bring_up(plan, children)
        print(await recommend(plan.address, ready.sample_user_id, NUM_ITEMS))
        print(f"\n{shlex.join(grpcurl_command(ready.sample_user_id, f'localhost:{plan.grpc_port}'))}", flush=True)
        await asyncio.Event().wait()

    asyncio.run(supervise(plan.log_dir, work))
    return 0


def smoke(settings: Settings, train_arguments: tuple[str, ...]) -> int:
    """Brings the stack up on free ports, asks it once with the real grpcurl, prints the answer, stops everything.

    It shares downloads, models and registry with `run`, but not the store, which is in a temporary folder. Returns the
    exit status: 0, or 130 if it was interrupted. Raises StackError, also if the answer is wrong.
    """
    with tempfile.TemporaryDirectory(prefix="tandem-smoke-") as folder:
        plan = Plan(
            train_arguments=train_arguments,
            registry_uri=settings.registry_uri,
            store_url=f"redis://{HOST}:{free_port()}/0",
            store_data_dir=Path(folder),
            log_dir=settings.data_dir / "logs" / "smoke",
            grpc_port=free_port(),
            http_port=free_port(),
            metrics_port=free_port(),
            sync_metrics_port=free_port(),
        )

        async def work(children: Children) -> None:
            ready = await _bring_up(plan, children)
            name, *arguments = grpcurl_command(ready.sample_user_id, plan.address)
            command = [_besidepython_command(name), "-max-time", str(_GRPCURL_SECONDS), *arguments]
            answer = await children.run("grpcurl", command, plan.environment)
            print(answer.rstrip(), flush=True)
            check_answer(answer, NUM_ITEMS)

        return 0 if asyncio.run(supervise(plan.log_dir, work)) else 130


async def supervise(log_dir: Path, work: Callable[[Children], Awaitable[None]]) -> bool:
    """Runs `work` until it ends, a service dies, or this process is told to stop; then stops all children.

    Returns whether `work` has finished; False if SIGINT or SIGTERM came first. Raises the exceptions of `work`, and
    ChildFailed if a service died.
    """
    told_to_stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, told_to_stop.set)
    async with Children(log_dir, grace_seconds=_GRACE_SECONDS) as children:
        tasks = [
            asyncio.ensure_future(work(children)),
            asyncio.ensure_future(children.failure()),
            asyncio.ensure_future(told_to_stop.wait()),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if told_to_stop.is_set():
                _say("stopping")
                return False
            # The death of a service explains the failure of the step that needed it, so it is raised first.
            for task in (tasks[1], tasks[0]):
                if task.done():
                    task.result()
            return True
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _bring_up(plan: Plan, children: Children) -> Ready:
    started = time.monotonic()
    environment = plan.environment
    with _step("store"):
        if not await store_answers(plan.store_url):
            await children.start("store", python_command("feature_sync", "store"), plan.store_environment)
            await wait_for_store(plan.store_url)
    has_registry = _has_registry(plan.registry_uri)
    if has_registry:
        await start_services(plan, children)
    with _step("train"):
        command = python_command("trainer", "train", "--if-needed", *plan.train_arguments)
        trained = last_json("train", await children.run("train", command, environment))
    with _step("publish"):
        command = python_command("feature_sync", "publish", "--prepared", str(trained["prepared"]))
        published = last_json("publish", await children.run("publish", command, environment))
    model_version = str(published["model_version"])
    with _step("serve"):
        if not has_registry:
            await start_services(plan, children)
        await wait_until_serving(plan.address, model_version, _READY_SECONDS)
    print(
        f"READY grpc={plan.address} http=http://{HOST}:{plan.http_port} "
        f"metrics=http://{HOST}:{plan.metrics_port}/metrics "
        f"model={model_version} in {time.monotonic() - started:.0f} s",
        flush=True,
    )
    return Ready(model_version=model_version, sample_user_id=str(trained["sample_user_id"]))


async def start_services(plan: Plan, children: Children) -> None:
    """Starts the server and `feature_sync run`."""
    await children.start("server", python_command("inference_server", "serve"), plan.environment)
    await children.start("sync", python_command("feature_sync", "run"), plan.store_environment)


def grpcurl_command(user_id: str, address: str) -> list[str]:
    """The grpcurl command that asks the server about this user."""
    request = json.dumps(
        {"user_id": user_id, "num_items": NUM_ITEMS, "explain": True}, separators=(",", ":"), ensure_ascii=False
    )
    return ["grpcurl", "-plaintext", "-d", request, address, f"{SERVICE}/Recommend"]


def _besidepython_command(name: str) -> str:
    """The package that carries grpcurl installs it beside this interpreter, which need not be on the PATH."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    binary = shutil.which(name, path=path)
    if binary is None:
        raise NotReady(f"{name} is not installed; it comes with the extra [dev]")
    return binary


def python_command(program: str, *arguments: str) -> list[str]:
    """The command of a program of the project, with this interpreter."""
    return [sys.executable, "-m", program, *arguments]


def _has_registry(uri: str) -> bool:
    """A new SQLite registry is left to the trainer: two programs that create its tables at once would collide."""
    database = sqlite_file(uri)
    return database is None or database.is_file()


def last_json(name: str, stdout: str) -> dict[str, Any]:
    """The JSON object in the last line that the step `name` printed. Raises ChildFailed."""
    try:
        result: dict[str, Any] = json.loads(stdout.strip().rpartition("\n")[2])
    except ValueError as error:
        raise ChildFailed(f"{name} did not print its result as JSON; it printed {stdout[-500:]!r}") from error
    return result


@contextlib.contextmanager
def _step(name: str) -> Iterator[None]:
    _say(f"{name} ...")
    started = time.monotonic()
    yield
    _say(f"{name} done in {time.monotonic() - started:.1f} s")


def _say(text: str) -> None:
    print(f"tandem: {text}", file=sys.stderr, flush=True)
