"""Rollback by command, and how a server remembers the versions that must not serve."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from pathlib import Path

import pytest

from inference_server.supervisor.operator_socket import Command, Reply, ask_server
from tandem.contract.bundle import Bundle
from tests.inference_server.defects import copy_of, truncated_index
from tests.support.serving import PATIENCE_SECONDS, MlflowRegistry, Server, serve, server_environment, wait_until

pytestmark = pytest.mark.process

NO_STORE = "redis://127.0.0.1:1/0"
ALIAS = "champion"


async def command(directory: Path, *arguments: str, **settings: object) -> tuple[int, str, str]:
    """Runs `python -m inference_server` with a server's settings; exit status, stdout, stderr."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "inference_server", *arguments),
        env=server_environment(directory, **settings),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE_SECONDS):
        output, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode(), errors.decode()


async def until_serving(server: Server, model_version: str) -> None:
    async def served() -> bool:
        return (await server.recommend()).model_version == model_version

    await wait_until(served, f"{model_version} answers")


async def test_rollback_moves_the_server_and_the_alias(
    tmp_path: Path, registry: MlflowRegistry, model_name: str, first: Bundle, second: Bundle
) -> None:
    # A folder with a path longer than a socket's address may be.
    directory = tmp_path / ("long" * 30)
    number_one = registry.register(first.directory, model_name=model_name, model_version="one", alias=ALIAS)
    # The only poll is at the start, so no later change is found by polling.
    settings = {"registry_uri": registry.uri, "model_name": model_name, "store_url": NO_STORE}
    async with serve(directory, workers=2, **settings) as server:
        assert stat.S_IMODE((directory / "control.sock").stat().st_mode) == 0o600
        status, _, errors = await command(directory, "rollback", **settings)
        assert (status, "no version served before" in errors) == (1, True)

        number_two = registry.register(second.directory, model_name=model_name, model_version="two", alias=ALIAS)
        await server.log("model_serving", model_version="two")
        status, output, errors = await command(directory, "rollback", **settings)
        assert status == 0, errors
        assert output.splitlines() == [
            f"version {number_one} (one) serves, instead of version {number_two} (two)",
            f"the alias {ALIAS} names version {number_one}",
        ]
        assert (await server.recommend()).model_version == "one"
        assert registry.aliased(model_name, ALIAS) == number_one
        await server.log("alias_left_rolled_back_version", registry_version=number_two)
        checks = sum(line["event"] == "bundle_checked" for line in server.logs)

        # By number, to the version that is still open: no check, no download.
        status, output, _ = await command(directory, "rollback", "--to", number_two, **settings)
        assert (status, output.splitlines()[-1]) == (0, f"the alias {ALIAS} names version {number_two}")
        assert (await server.recommend()).model_version == "two"
        assert sum(line["event"] == "bundle_checked" for line in server.logs) == checks

        status, _, errors = await command(directory, "rollback", "--to", "99", **settings)
        assert (status, "could not be moved to version 99" in errors) == (1, True)
        assert (await server.recommend()).model_version == "two"
    assert not (directory / "control.sock").exists()


async def test_rollback_works_after_a_restart(
    tmp_path: Path, registry: MlflowRegistry, model_name: str, first: Bundle, second: Bundle
) -> None:
    registry.register(first.directory, model_name=model_name, model_version="one", alias=ALIAS)
    settings = {"registry_uri": registry.uri, "model_name": model_name, "store_url": NO_STORE}
    async with serve(tmp_path, **settings) as server:
        number_two = registry.register(second.directory, model_name=model_name, model_version="two", alias=ALIAS)
        await server.log("model_serving", model_version="two")
    async with serve(tmp_path, **settings) as server:
        await server.log("previous_bundle_open", model_version="one")
        assert (await server.recommend()).model_version == "two"
        status, output, errors = await command(tmp_path, "rollback", **settings)
        assert (status, f"instead of version {number_two}" in output) == (0, True), errors
        assert (await server.recommend()).model_version == "one"


async def test_without_a_registry_the_server_goes_back_and_stays_there(
    tmp_path: Path, model_name: str, first: Bundle, second: Bundle
) -> None:
    registry = MlflowRegistry(tmp_path / "registry")
    number_one = registry.register(first.directory, model_name=model_name, model_version="one", alias=ALIAS)
    hidden = registry.database.with_suffix(".away")
    directory = tmp_path / "server"
    settings = {"registry_uri": registry.uri, "model_name": model_name, "store_url": NO_STORE}
    async with serve(directory, **settings) as server:
        number_two = registry.register(second.directory, model_name=model_name, model_version="two", alias=ALIAS)
        await server.log("model_serving", model_version="two")
        registry.database.rename(hidden)
        await server.log("registry_unavailable")
        status, output, errors = await command(directory, "rollback", **settings)
        assert status == 1
        assert f"version {number_one} (one) serves" in output
        assert "could not be moved" in errors
        assert (await server.recommend()).model_version == "one"
        # The alias still names the version that was rolled back, and the server sees it again.
        hidden.rename(registry.database)
        await server.log("registry_up")
        assert (await server.recommend()).model_version == "one"
    async with serve(directory, **settings) as server:
        await server.log("serving_cached_bundle", model_version="one")
        assert (await server.recommend()).model_version == "one", "also after a restart"
        # An operator moves the alias away and back: that is a decision.
        registry.move_alias(model_name, ALIAS, number_one)
        await server.log("alias_left_rolled_back_version")
        registry.move_alias(model_name, ALIAS, number_two)
        await until_serving(server, "two")


async def test_a_server_of_a_folder_has_nothing_to_go_back_to(tmp_path: Path, first: Bundle) -> None:
    settings = {"bundle_path": first.directory, "store_url": NO_STORE}
    async with serve(tmp_path, **settings):
        status, output, errors = await command(tmp_path, "rollback", **settings)
    assert (status, output) == (1, "")
    assert "serves a bundle folder" in errors


async def test_without_a_server_the_alias_alone_is_moved(
    tmp_path: Path, registry: MlflowRegistry, model_name: str, first: Bundle, second: Bundle
) -> None:
    number_one = registry.register(first.directory, model_name=model_name, model_version="one")
    registry.register(second.directory, model_name=model_name, model_version="two", alias=ALIAS)
    settings = {"registry_uri": registry.uri, "model_name": model_name}
    status, _, errors = await command(tmp_path, "rollback", **settings)
    assert (status, "say which with --to VERSION" in errors) == (1, True)
    status, output, _ = await command(tmp_path, "rollback", "--to", number_one, **settings)
    assert (status, "no server runs" in output) == (0, True)
    assert registry.aliased(model_name, ALIAS) == number_one


async def test_a_refusal_outlasts_a_restart_until_it_is_forgotten(
    tmp_path: Path, registry: MlflowRegistry, model_name: str, first: Bundle, bundle: Bundle
) -> None:
    registry.register(first.directory, model_name=model_name, model_version="one", alias=ALIAS)
    broken = copy_of(bundle.directory, tmp_path / "broken")
    truncated_index(broken)
    directory = tmp_path / "server"
    settings = {"registry_uri": registry.uri, "model_name": model_name, "store_url": NO_STORE}
    async with serve(directory, **settings) as server:
        number = registry.register(broken, model_name=model_name, model_version="tiny-1", alias=ALIAS)
        refused = await server.log("bundle_refused", registry_version=number)
    async with serve(directory, **settings) as server:
        line = await server.log("bundle_still_refused", registry_version=number)
        assert line["reason"] == refused["reason"]
        await server.log("serving_cached_bundle", model_version="one")
        status = await server.status()
        assert (status.model_version, status.bundles_refused) == ("one", 1)
        assert refused["reason"] in status.last_refusal
        assert not any(line["event"] in {"bundle_downloaded", "bundle_refused"} for line in server.logs)

        exit_status, output, _ = await command(directory, "forget-refusals", **settings)
        assert (exit_status, output.startswith(f"version {number} (tiny-1) is tried again")) == (0, True)
        await server.log("bundle_refused", registry_version=number)
        assert (await server.recommend()).model_version == "one"
    exit_status, output, _ = await command(directory, "forget-refusals", **settings)
    assert (exit_status, f"version {number} is tried again when a server starts" in output) == (0, True)
    exit_status, output, _ = await command(directory, "forget-refusals", **settings)
    assert (exit_status, "no version is remembered" in output) == (0, True)


async def test_a_killed_server_leaves_a_socket_that_the_next_one_replaces(tmp_path: Path, first: Bundle) -> None:
    settings = {"bundle_path": first.directory, "store_url": NO_STORE}
    async with serve(tmp_path, **settings) as server:
        server.process.kill()
        await server.process.wait()
    assert (tmp_path / "control.sock").is_socket()
    async with serve(tmp_path, **settings) as server:
        replies = [reply async for reply in ask_server(tmp_path, Command(name="dance"))]
        assert [reply.done for reply in replies] == [False]
        assert isinstance(replies[0], Reply)
        # A second server with the same folder has no control socket.
        async with serve(tmp_path, **settings) as other:
            await other.log("no_control_socket")
        assert os.path.exists(tmp_path / "control.sock")  # noqa: PTH110, ASYNC240
