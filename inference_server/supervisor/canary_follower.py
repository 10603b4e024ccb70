"""Keeps one server on the canary that the registry names, and takes it back when a guardrail is broken.

All servers of an alias read the same tags. A broken guardrail is acted on in this order: this server withdraws the
canary from its users, then the tags say so to the other servers, then people are told. While the registry is away the
canary stays at its step, and a withdrawal is kept, on disk too, until the tags can be written.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from inference_server.canary.record import CanaryRecord
from inference_server.control.messages import CanaryCounted
from inference_server.core.canary_status import CanaryState, CanaryStatus
from inference_server.core.errors import CanaryInvalid, CommandFailed, RegistryUnavailable
from inference_server.supervisor.canary_moves import CanaryMoves, Move
from inference_server.supervisor.canary_registry import CanaryRegistry
from inference_server.supervisor.canary_trial import Trial, Withdrawal
from inference_server.supervisor.further_models import FurtherModels
from inference_server.supervisor.json_files import read_json, write_json
from inference_server.supervisor.worker_pool import WorkerPool
from tandem.ops.secrets import redacted

_log = structlog.get_logger()

FILE: Final = "canary.json"
"""A withdrawal that the registry does not know of yet, in the data folder."""
_WANTS: Final = "canary"
_SHOWN_SECONDS: Final = 0.5
"""How often workers hear of new figures."""
_PROMOTED_POLLS: Final = 20
"""Polls in which the champion's alias must have been followed after a promotion."""


class CanaryFollower:
    """Follows the canary of the server's alias."""

    def __init__(
        self,
        *,
        pool: WorkerPool,
        further: FurtherModels,
        registry: CanaryRegistry,
        moves: CanaryMoves,
        data_dir: Path,
        poll_seconds: float,
        on_promoted: Callable[[], None],
    ) -> None:
        """`on_promoted` is called when the champion's alias has moved, before the next poll would find out."""
        self._pool = pool
        self._further = further
        self._registry = registry
        self._moves = moves
        self._path = data_dir / FILE
        self._poll_seconds = poll_seconds
        self._on_promoted = on_promoted
        self._trial: Trial | None = None
        self._look_now = asyncio.Event()
        self._shown_at = 0.0
        self._problem = ""
        self._promoted_polls = 0
        self._champion_polls = 0
        self._num_taken_over = 0

    @property
    def status(self) -> CanaryStatus:
        """The newest canary; without a name: there has been none."""
        return CanaryStatus() if self._trial is None else self._trial.status

    @property
    def layer_of_everybody(self) -> str:
        """The layer of the experiments in force that leaves no user to a canary; empty: none does."""
        return self._pool.layer_of_everybody()

    def started(self, record: CanaryRecord) -> None:
        """Takes over a canary that this server's operator has started."""
        self._take_over(Move.STARTED, record)
        self.look()

    def promoted(self, record: CanaryRecord) -> None:
        """Takes over that this server's operator has promoted the canary."""
        self._promoted_polls = 0
        self._take_over(Move.PROMOTED, record)
        self._on_promoted()
        self.look()

    def _take_over(self, move: Move, record: CanaryRecord) -> None:
        """Tells about an own move, which a look at the registry may have told about as somebody else's already."""
        self._num_taken_over += 1
        trial = self._trial
        if trial is None or trial.record.experiment != record.experiment:
            trial = self._trial = Trial(record)
        elif trial.record.state is record.state:
            self._moves.send(move, record, trial.status)
            return
        trial.record = record
        self._moves.tell(move, record, trial.status, is_own=True)

    def look(self) -> None:
        """Looks at the registry now."""
        self._look_now.set()

    async def run(self) -> None:
        """Follows the canary until it is cancelled."""
        await self._pool.own_serves()
        while True:
            self._look_now.clear()
            await self._look()
            try:
                async with asyncio.timeout(self._poll_seconds):
                    await self._look_now.wait()
            except TimeoutError:
                continue

    def counted(self, message: CanaryCounted) -> None:
        """Takes in what a worker has counted, and withdraws the canary if that breaks a guardrail."""
        trial = self._trial
        if trial is None or message.experiment != trial.record.experiment:
            return
        trial.count(message)
        broken = trial.broken(message.counts)
        if broken is not None:
            self._withdraw(
                trial,
                Withdrawal(move=Move.TAKEN_BACK, reason=f"{broken.guardrail}: {broken.reason}"),
                broken.num_harmed,
            )
        elif time.monotonic() - self._shown_at >= _SHOWN_SECONDS:
            self._show(trial)

    def stop(self, reason: str) -> bool:
        """Withdraws a running canary. Returns whether there was one."""
        trial = self._trial
        if trial is None or not trial.record.is_running or trial.withdrawal is not None:
            return False
        self._withdraw(trial, Withdrawal(move=Move.STOPPED, reason=reason))
        return True

    async def settle(self) -> bool:
        """Writes a withdrawal to the registry. Returns whether none is left to write."""
        try:
            await self._write_withdrawal()
        except (RegistryUnavailable, CanaryInvalid):
            return False
        return True

    def _withdraw(self, trial: Trial, withdrawal: Withdrawal, num_harmed: int = 0) -> None:
        trial.withdraw(withdrawal, num_harmed)
        self._show(trial)
        _log.warning("canary_withdrawn", experiment=trial.record.experiment, reason=withdrawal.reason)
        record = {"experiment": trial.record.experiment, "move": withdrawal.move, "reason": withdrawal.reason}
        try:
            write_json(self._path, record)
        except OSError as error:
            _log.warning("canary_not_kept", path=str(self._path), reason=str(error))
        self._look_now.set()

    async def _look(self) -> None:
        problem = ""
        try:
            await self._write_withdrawal()
            num_taken_over = self._num_taken_over
            record, champion = await self._registry.read()
            # What was read while an operator's move was taken over may be from before it.
            if num_taken_over == self._num_taken_over:
                await self._follow(record, champion)
        except RegistryUnavailable as error:
            problem = f"the registry cannot be asked, the canary stays as it is: {error}"
        except CanaryInvalid as error:
            problem = str(error)
        problem = redacted(problem)
        if problem and problem != self._problem:
            _log.warning("canary_problem", reason=problem)
        self._problem = problem
        if self._trial is not None:
            if problem:
                self._trial.problem = problem
            self._show(self._trial)

    async def _follow(self, record: CanaryRecord | None, champion: str) -> None:
        """Takes over what the registry says."""
        if record is None:
            if self._trial is not None:
                self._trial = None
                self._pool.set_canary("", CanaryStatus())
            self._end()
            return
        trial = self._trial
        if trial is None or trial.record.experiment != record.experiment:
            trial = self._trial = self._found(record)
        elif trial.withdrawal is None:
            self._compare(trial, record)
        if record.state is CanaryState.PROMOTED and trial.withdrawal is None:
            self._see_off(trial, champion)
        elif not record.is_running or trial.withdrawal is not None:
            trial.give(0.0)
            self._end()
        elif champion == record.version.number:
            # Whoever moved the alias may be about to say so.
            self._champion_polls += 1
            if self._champion_polls > 1:
                await self._promote(trial, "its version was made the champion")
        elif champion != record.against:
            reason = f"version {champion or 'none'} became the champion meanwhile, in place of version {record.against}"
            self._withdraw(trial, Withdrawal(move=Move.TAKEN_BACK, reason=reason))
        else:
            await self._go_on(trial)

    def _found(self, record: CanaryRecord) -> Trial:
        """A canary that this server has not seen before, or not since its start."""
        trial = Trial(record)
        self._champion_polls = 0
        kept = read_json(self._path)
        if kept.get("experiment") == record.experiment and record.is_running:
            trial.withdrawal = Withdrawal(move=Move(kept["move"]), reason=str(kept["reason"]))
            self._look_now.set()
        elif record.is_running:
            self._moves.tell(Move.STARTED, record, trial.status, is_own=False)
        return trial

    def _compare(self, trial: Trial, record: CanaryRecord) -> None:
        """Tells about what others have done to a canary."""
        before, trial.record = trial.record, record
        if before.is_running and not record.is_running:
            promoted = record.state is CanaryState.PROMOTED
            self._moves.tell(Move.PROMOTED if promoted else Move.TAKEN_BACK, record, trial.status, is_own=False)
            self._promoted_polls = 0
        elif before.step != record.step:
            self._moves.tell(Move.STEP, record, trial.status, is_own=False)

    async def _go_on(self, trial: Trial) -> None:
        """Gives a running canary its share once its model is open, and moves it on when its step is passed."""
        record = trial.record
        number = record.version.number
        self._further.serve_also([number], for_whom=_WANTS)
        track = self._pool.further.get(number)
        own = self._pool.own.serving
        if track is not None and track.is_refused:
            self._withdraw(trial, Withdrawal(move=Move.TAKEN_BACK, reason=track.problem))
            return
        trial.problem = ""
        if own is None or own.version.number != record.against:
            trial.problem = f"this server does not serve version {record.against}, which the canary is compared with"
        elif taken := self._pool.layer_of_everybody():
            trial.problem = f"the layer {taken} of the experiments chooses the model for everybody: no user is left"
        elif track is None or track.serving is None:
            trial.problem = "its model is not open yet" if track is None else f"its model is not open: {track.problem}"
        trial.give(0.0 if trial.problem else record.plan.steps[record.step])
        if not trial.step_is_passed:
            return
        if record.step + 1 == len(record.plan.steps):
            await self._promote(trial, "it has passed all steps")
        elif (moved := await self._registry.advance(record)) is not None:
            trial.record = moved
            trial.give(moved.plan.steps[moved.step])
            self._moves.tell(Move.STEP, moved, trial.status, is_own=True)

    async def _promote(self, trial: Trial, reason: str) -> None:
        try:
            promoted = await self._registry.promote(trial.record, reason)
        except CommandFailed as error:
            self._withdraw(trial, Withdrawal(move=Move.TAKEN_BACK, reason=str(error)))
            return
        if promoted is not None and trial.withdrawal is None:
            self.promoted(promoted)

    def _see_off(self, trial: Trial, champion: str) -> None:
        """Keeps a promoted canary as it is until the server's own model is its version, unless it was rolled back."""
        own = self._pool.own.serving
        self._promoted_polls += 1
        version = trial.record.version
        is_over = champion != version.number or (own is not None and own.version == version)
        if is_over or self._promoted_polls > _PROMOTED_POLLS:
            trial.give(0.0)
            self._end()

    async def _write_withdrawal(self) -> None:
        """Writes the tags of a withdrawal, and tells people. Raises RegistryUnavailable."""
        trial = self._trial
        if trial is None or trial.withdrawal is None or not trial.record.is_running:
            return
        withdrawal, written = trial.withdrawal, True
        try:
            ended = await self._registry.end(trial.record, CanaryState.TAKEN_BACK, withdrawal.reason)
            written = ended is not None
        finally:
            if not trial.is_told:
                trial.is_told = True
                self._moves.tell(withdrawal.move, trial.record, trial.status, is_own=written)
        if ended is not None:
            trial.record = ended
        else:
            newest, _ = await self._registry.read()
            if newest is not None and newest.experiment == trial.record.experiment:
                trial.record = newest
                if newest.state is CanaryState.PROMOTED:
                    _log.error("canary_promoted_meanwhile", experiment=newest.experiment, reason=withdrawal.reason)
                    trial.withdrawal = None
        self._path.unlink(missing_ok=True)

    def _end(self) -> None:
        self._further.serve_also([], for_whom=_WANTS)

    def _show(self, trial: Trial) -> None:
        self._shown_at = time.monotonic()
        self._pool.set_canary(trial.record.version.number, trial.status)
