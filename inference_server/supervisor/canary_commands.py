"""`canary start`, `status`, `stop` and `promote`: done by the running server of the data folder, or here if none runs.

All four act on the registry, which every server of the alias follows. A running server stops a canary among its own
users first, and knows its own figures.
"""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator
from typing import Final

from inference_server.canary.plan import Plan
from inference_server.canary.record import CanaryRecord
from inference_server.core.canary_status import CanaryState, CanaryStatus
from inference_server.core.errors import CanaryInvalid, CommandFailed, RegistryUnavailable
from inference_server.core.settings import Settings
from inference_server.supervisor.canary_follower import CanaryFollower
from inference_server.supervisor.canary_moves import CanaryMoves, Move, figures
from inference_server.supervisor.canary_registry import CanaryRegistry
from inference_server.supervisor.canary_trial import Trial
from inference_server.supervisor.notifier import Notifier
from inference_server.supervisor.operator_socket import Command
from inference_server.supervisor.registry import Registry
from tandem.contract.names import CHALLENGER

START: Final = "canary-start"
STATUS: Final = "canary-status"
STOP: Final = "canary-stop"
PROMOTE: Final = "canary-promote"
CANARY_COMMANDS: Final = (START, STATUS, STOP, PROMOTE)
NO_REGISTRY: Final = "this server serves a bundle folder and has no registry: a canary needs one"


class CanaryCommands:
    """Executes the commands, with or without a server."""

    def __init__(self, registry: CanaryRegistry, moves: CanaryMoves, follower: CanaryFollower | None = None) -> None:
        """`follower` None: no server runs here."""
        self._registry = registry
        self._moves = moves
        self._follower = follower

    async def do(self, command: Command) -> AsyncIterator[str]:
        """Yields a line for each step done. Raises CommandFailed."""
        steps = {START: self._start, STATUS: self._status, STOP: self._stop, PROMOTE: self._promote}[command.name]
        try:
            async for line in steps(command):
                yield line
        except (RegistryUnavailable, CanaryInvalid) as error:
            raise CommandFailed(str(error)) from error

    async def _start(self, command: Command) -> AsyncIterator[str]:
        record = await self._registry.start(
            command.model or CHALLENGER,
            Plan.from_json(command.plan or ""),
            by=command.by or "",
            force=command.force,
            may_begin=self._require_users,
        )
        if self._follower is None:
            self._moves.tell(Move.STARTED, record, CanaryStatus(), is_own=True)
        else:
            self._follower.started(record)
        yield (
            f"version {record.version.number} ({record.version.model_version}) is a canary: {record.experiment}, "
            f"{record.plan.shown_steps} % of the users, compared with version {record.against}"
        )
        if self._follower is None:
            yield "no server runs with this data folder: those that follow the registry begin at their next poll"

    async def _status(self, _: Command) -> AsyncIterator[str]:
        record, _champion = await self._registry.read()
        if record is None:
            yield "there has been no canary"
            return
        yield described(record)
        if self._follower is not None and self._follower.status.experiment == record.experiment:
            status = self._follower.status
            control = f"Its control group: {status.control_answers} answers."
            yield f"{status.percent:g} % of the users here. {figures(status)} {control}"
            if status.problem:
                yield f"it does not go on: {status.problem}"

    async def _stop(self, command: Command) -> AsyncIterator[str]:
        reason = f"stopped by {command.by}"
        if self._follower is not None and self._follower.stop(reason):
            yield f"no user of this server is answered by the canary {self._follower.status.experiment} any more"
            if not await self._follower.settle():
                raise CommandFailed("the registry cannot be written: other servers hear of it when it can")
            yield "the registry says so to the other servers"
            return
        record = await self._running()
        ended = await self._registry.end(record, CanaryState.TAKEN_BACK, reason)
        if ended is not None:
            self._moves.tell(Move.STOPPED, ended, Trial(ended).status, is_own=True)
        self._look()
        yield f"the canary {record.experiment} is over; servers take it back at their next poll"

    async def _promote(self, command: Command) -> AsyncIterator[str]:
        record = await self._running()
        reason = f"promoted by {command.by}, at {record.plan.steps[record.step]:g} % of the users"
        promoted = await self._registry.promote(record, reason)
        if promoted is None:
            raise CommandFailed(f"the canary {record.experiment} ended in the same moment")
        if self._follower is None:
            self._moves.tell(Move.PROMOTED, promoted, Trial(promoted).status, is_own=True)
        else:
            self._follower.promoted(promoted)
        yield f"version {record.version.number} is the champion, in place of version {record.against}"

    async def _running(self) -> CanaryRecord:
        record, _ = await self._registry.read()
        if record is None or not record.is_running:
            raise CommandFailed("no canary is running")
        return record

    def _require_users(self) -> None:
        if self._follower is not None and (layer := self._follower.layer_of_everybody):
            raise CommandFailed(
                f"the layer {layer} of the experiments chooses the model for everybody: no user is left for a canary"
            )

    def _look(self) -> None:
        if self._follower is not None:
            self._follower.look()


def described(record: CanaryRecord) -> str:
    """What the registry says of a canary, as one line."""
    started_at = datetime.datetime.fromtimestamp(record.started_at_seconds, datetime.UTC)
    where = f"step {record.step + 1} of {len(record.plan.steps)}, {record.plan.steps[record.step]:g} % of the users"
    line = (
        f"{record.experiment}: version {record.version.number} ({record.version.model_version}), compared with version "
        f"{record.against}, started {started_at:%Y-%m-%d %H:%M:%S} UTC by {record.started_by}: {record.state}, {where}"
    )
    return f"{line}: {record.reason}" if record.reason else line


async def without_server(settings: Settings, command: Command) -> AsyncIterator[str]:
    """Executes a command where no server runs. Raises CommandFailed."""
    if settings.bundle_path is not None:
        raise CommandFailed(NO_REGISTRY)
    registry = Registry(settings.registry_uri, model_name=settings.model_name, alias=settings.model_alias)
    notifier = Notifier(settings.notify_urls_file)
    canary = CanaryRegistry(registry, data_dir=settings.data_dir)
    async for line in CanaryCommands(canary, CanaryMoves(notifier)).do(command):
        yield line
    await notifier.close()
