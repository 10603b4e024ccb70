"""Operators' commands: sent to the running server of the data folder, or done here, where that can be, if none runs."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator

from inference_server.core.errors import CommandFailed, RegistryUnavailable
from inference_server.core.settings import Settings
from inference_server.supervisor.barred_versions import BarredVersions
from inference_server.supervisor.bundle_cache import BundleCache
from inference_server.supervisor.canary_commands import CANARY_COMMANDS, without_server
from inference_server.supervisor.operator_socket import Command, Reply, ask_server
from inference_server.supervisor.registry import Registry


async def run_command(settings: Settings, command: Command) -> int:
    """Runs a command and prints each step that was done. Returns the exit status: 0, or 1 if a step could not be
    done."""
    try:
        replies = [_print(reply) async for reply in ask_server(settings.data_dir, command)]
    except (ConnectionError, FileNotFoundError):
        replies = [_print(reply) async for reply in _replies_without_server(settings, command)]
    except OSError as error:
        replies = [_print(Reply(done=False, text=f"the server of {settings.data_dir} cannot be asked: {error}"))]
    return 0 if replies and all(reply.done for reply in replies) else 1


async def _replies_without_server(settings: Settings, command: Command) -> AsyncIterator[Reply]:
    if command.name not in CANARY_COMMANDS:
        yield await _without_server(settings, command)
        return
    try:
        async for text in without_server(settings, command):
            yield Reply(done=True, text=text)
    except CommandFailed as error:
        yield Reply(done=False, text=str(error))


async def _without_server(settings: Settings, command: Command) -> Reply:
    name, alias = settings.model_name, command.model or settings.model_alias
    is_further = alias != settings.model_alias
    if command.name == "forget-refusals":
        forgotten = BarredVersions(
            settings.data_dir, model_name=name, alias=alias, is_further=is_further
        ).forget_refusal()
        if forgotten is None:
            return Reply(done=True, text=f"no version is remembered as refused in {settings.data_dir}")
        return Reply(done=True, text=f"version {forgotten.number} is tried again when a server starts")
    no_server = f"no server runs with the data folder {settings.data_dir}"
    if command.name == "shadow":
        return Reply(done=False, text=no_server)
    if settings.bundle_path is not None:
        return Reply(done=False, text=f"{no_server}, and a bundle folder has no version before it")
    before = BundleCache(settings.data_dir, model_name=name, alias=alias, is_further=is_further).served_before()
    number = command.to or (before.number if before else None)
    if number is None:
        return Reply(done=False, text=f"{no_server}, and none has served two versions: say which with --to VERSION")
    try:
        await Registry(settings.registry_uri, model_name=name, alias=alias).move_alias(number)
    except RegistryUnavailable as error:
        text = f"{no_server}, and the alias {alias} could not be moved to version {number}: {error}"
        return Reply(done=False, text=text)
    return Reply(done=True, text=f"the alias {alias} names version {number}; {no_server}")


def _print(reply: Reply) -> Reply:
    print(reply.text, file=sys.stdout if reply.done else sys.stderr, flush=True)
    return reply
