"""The canary of one alias in the model registry. Blocking calls run in threads; each method raises RegistryUnavailable.

Two servers may write at once. Whoever moves a canary on reads it just before, and writes the number of the step, so
that both write the same; an end is a tag of its own, which no step overwrites.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from inference_server.canary.plan import Plan
from inference_server.canary.record import REASON_TAG, STATE_TAG, STEP_TAG, CanaryRecord, canary_alias
from inference_server.core.canary_status import CanaryState
from inference_server.core.daemon_thread import in_daemon_thread
from inference_server.core.errors import CommandFailed
from inference_server.supervisor.registry import Registry
from tandem.ops.champion_alias import ChampionAlias
from tandem.ops.model_registry import RegisteredVersion

_MAX_REASON: Final = 500
"""Characters of a reason that a tag keeps."""


class CanaryRegistry:
    """Reads and moves the canary of the alias that a registry follows."""

    def __init__(self, registry: Registry, *, data_dir: Path) -> None:
        self._registry = registry
        self._model = registry.model
        self._alias = canary_alias(registry.alias)
        self._champion = ChampionAlias(
            registry.model, registry.alias, data_dir=data_dir, refuses=CommandFailed, overtaken=CommandFailed
        )

    async def read(self) -> tuple[CanaryRecord | None, str]:
        """The newest canary, and the number of the champion; empty: there is none. Raises CanaryInvalid too."""

        def read() -> tuple[RegisteredVersion | None, RegisteredVersion | None]:
            return self._model.aliased(self._alias), self._model.aliased(self._champion.alias)

        version, champion = await in_daemon_thread(read)
        record = None if version is None else CanaryRecord.of(version)
        if record is not None and record.alias != self._champion.alias:
            record = None  # it has become a canary of another alias since
        return record, champion.number if champion else ""

    async def start(
        self, name: str, plan: Plan, *, by: str, force: bool, may_begin: Callable[[], None] = lambda: None
    ) -> CanaryRecord:
        """Begins a canary of the version that an alias or number names. `force` skips the gate's verdict. `may_begin`
        raises CommandFailed where the server has a reason against it.

        Raises CommandFailed for what cannot be a canary now.
        """
        named = self._registry.of(name)
        version = await named.aliased_version()
        if version is None:
            raise CommandFailed(await named.why_no_version())
        running, _ = await self.read()
        if running is not None and running.is_running:
            raise CommandFailed(
                f"version {running.version.number} is a canary already (step {running.step + 1} of "
                f"{len(running.plan.steps)}): stop or promote it first"
            )
        may_begin()
        champion = await in_daemon_thread(lambda: self._model.aliased(self._champion.alias))
        if champion is None:
            raise CommandFailed(f"the alias {self._champion.alias} names no version that it could be compared with")
        if champion == version:
            raise CommandFailed(f"version {version.number} is the {self._champion.alias} already")
        if not force:
            self._champion.require_passed(version, champion)
        before = CanaryRecord.of(version)
        if before is not None and await self._runs_elsewhere(before):
            raise CommandFailed(
                f"version {version.number} is a canary of the alias {before.alias} until that has ended"
            )
        record = CanaryRecord(
            version=version,
            number=before.number + 1 if before else 1,
            plan=plan,
            alias=self._champion.alias,
            against=champion.number,
            started_at_seconds=time.time(),
            started_by=by,
        )

        def write() -> None:
            # The alias last: a version that it does not name is no canary, whatever its tags say.
            self._model.tag(version, record.tags())
            self._model.set_alias(self._alias, version.number)

        await in_daemon_thread(write)
        return record

    async def _runs_elsewhere(self, record: CanaryRecord) -> bool:
        """Whether it is a running canary of another alias: its tags are those of the version, which has one set."""
        if not record.is_running or record.alias == self._champion.alias:
            return False
        newest = await in_daemon_thread(lambda: self._model.aliased(canary_alias(record.alias)))
        return newest == record.version

    async def advance(self, record: CanaryRecord) -> CanaryRecord | None:
        """Moves a canary to its next step; None: it has been moved, or has ended, meanwhile."""
        newest, _ = await self.read()
        if newest is None or (newest.experiment, newest.step) != (record.experiment, record.step):
            return None
        if not newest.is_running:
            return None
        moved = replace(newest, step=newest.step + 1)
        await in_daemon_thread(lambda: self._model.tag(record.version, {STEP_TAG: str(moved.step)}))
        return moved

    async def end(self, record: CanaryRecord, state: CanaryState, reason: str) -> CanaryRecord | None:
        """Ends a canary; None: it had ended already."""
        newest, _ = await self.read()
        if newest is None or newest.experiment != record.experiment or not newest.is_running:
            return None
        reason = reason[:_MAX_REASON]

        def write() -> None:
            self._model.tag(record.version, {REASON_TAG: reason, STATE_TAG: state})

        await in_daemon_thread(write)
        return replace(newest, state=state, reason=reason)

    async def promote(self, record: CanaryRecord, reason: str) -> CanaryRecord | None:
        """Makes a canary's version the champion; None: it had ended already. Raises CommandFailed where the champion is
        another one than at its start."""
        newest, champion = await self.read()
        if newest is None or newest.experiment != record.experiment or not newest.is_running:
            return None
        if champion not in {record.against, record.version.number}:
            raise CommandFailed(
                f"version {champion} became the {self._champion.alias} meanwhile; the canary was compared with version "
                f"{record.against}"
            )
        # The gate's verdict was asked for at the start.
        await in_daemon_thread(lambda: self._champion.promote(record.version, force=True))
        promoted = await self.end(record, CanaryState.PROMOTED, reason)
        if promoted is None:
            await self._undo(record)
        return promoted

    async def _undo(self, record: CanaryRecord) -> None:
        """Gives the alias back where another server took the canary back while this one promoted it."""
        newest, champion = await self.read()
        if newest is None or newest.state is not CanaryState.TAKEN_BACK or champion != record.version.number:
            return

        def give_back() -> None:
            if (against := self._model.numbered(record.against)) is not None:
                self._champion.move(against)

        await in_daemon_thread(give_back)
