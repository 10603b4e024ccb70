"""The workers of a server: started, restarted when they end, and moved from bundle to bundle together.

A swap has two phases. `open` makes every worker open and warm the bundle, a few workers at a time; if one worker
cannot, none will serve it. `switch` then tells all workers at once, and each moves one pointer: callers see two
versions for as long as it takes to read a line from a socket. The previous bundle stays open, so a rollback is a
`switch` alone.

A worker that starts while other workers answer opens their bundle before it binds the port, so that no caller reaches a
worker without a model.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

import structlog

from inference_server.canary.layer import layer_of_everybody
from inference_server.control.messages import (
    BreakerChanged,
    CanaryChanged,
    CanaryCounted,
    DependencyChanged,
    ExperimentsChanged,
    FurtherModels,
    Message,
    RefusalsCounted,
)
from inference_server.control.snapshot import add, add_ended, to_plain
from inference_server.core.breaker import Breaker
from inference_server.core.canary_status import CanaryStatus
from inference_server.core.errors import BundleRefused, WorkerEnded, WorkersFailed
from inference_server.core.table_status import TableStatus
from inference_server.experiments.table import make_table
from inference_server.supervisor.checked_bundle import CheckedBundle
from inference_server.supervisor.fork_server_handle import ForkServerHandle
from inference_server.supervisor.process_usage import usage
from inference_server.supervisor.server_view import ServerView, WorkerView
from inference_server.supervisor.track import Track
from inference_server.supervisor.watchdog import Watchdog
from inference_server.supervisor.worker_handle import WorkerHandle
from inference_server.telemetry.statistics import Statistics, WorkerIdentity
from tandem.ops.model_registry import RegisteredVersion
from tandem.ops.secrets import redacted

_log = structlog.get_logger()

_OPENED_AT_ONCE: Final = 2
"""Workers that open a bundle at the same time. More would take disk and processor time from the requests of all
workers."""
_STEADY_SECONDS: Final = 10.0
"""A worker that answered for at least this long did not fail because of its start: the next one is started at once."""
_FIRST_DELAY_SECONDS: Final = 0.5
_LONGEST_DELAY_SECONDS: Final = 30.0
_FAILED_START_SECONDS: Final = 5.0
"""Time in which a worker that could not start may end by itself."""
_STATISTICS_SECONDS: Final = 0.5
"""How long a scrape waits for a worker's statistics. A worker that hangs is shown with its last report."""


@dataclass(eq=False)
class Slot:
    """One worker's slot: its number stays, its process changes with every restart."""

    number: int
    worker: WorkerHandle | None = None
    answers: bool = False
    """Whether its worker listens."""
    joined: bool = False
    """Whether its worker takes part in swaps."""
    restarts: int = 0
    failed_starts: int = 0
    """Consecutive starts that failed before the worker answered."""
    quick_ends: int = 0
    """Consecutive workers that ended within `_STEADY_SECONDS`."""
    tried: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the first start has succeeded or failed."""


class WorkerPool:
    """All workers of a server."""

    def __init__(
        self, *, alias: str, num_workers: int, grpc_port: int, http_port: int, start_attempts: int, hang_seconds: float
    ) -> None:
        """The caller holds the ports for the workers; `http_port` 0: no HTTP. No worker starts before `run`.

        `alias` is the one that the server serves; empty for a bundle folder. A worker that answers and then shows no
        sign of life for `hang_seconds` is replaced; 0: never.
        """
        self._watchdog = Watchdog(patience_seconds=hang_seconds) if hang_seconds else None
        self._num_workers = num_workers
        self._grpc_port = grpc_port
        self._http_port = http_port
        self._start_attempts = start_attempts
        self.slots: Final[Sequence[Slot]] = [Slot(number) for number in range(1, num_workers + 1)]
        self.own: Final = Track(alias)
        """The server's own model."""
        self.further: dict[str, Track] = {}
        """The models that answer beside it, by name."""
        self.swap_window_seconds: float | None = None
        """Time from the first worker's switch to the last worker's, at the most recent swap of the own model."""
        self._fork_server = ForkServerHandle()
        self._own = Statistics()
        self._dependencies: dict[str, DependencyChanged] = {}
        self._experiments: Mapping[str, Any] | None = None
        self._table_status = TableStatus()
        self._canary = CanaryChanged(experiment="", model="", percent=0.0, status=asdict(CanaryStatus()))
        self.on_refusal: Callable[[str, str], None] = lambda _, __: None
        """Told the number of a version that is refused now, and why."""
        self.on_canary_counted: Callable[[CanaryCounted], None] = lambda _: None
        """Told what workers count of a canary."""
        self._ended = Statistics()
        """Sum of the last reports of workers that have ended."""
        self._some_answers = asyncio.Event()
        self._own_serves = asyncio.Event()
        self._catching_up: set[tuple[WorkerHandle, Track]] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Keeps every slot filled until it is cancelled. Raises WorkersFailed if no worker starts to answer."""
        keepers = [asyncio.create_task(self._keep(slot), name=f"worker-{slot.number}") for slot in self.slots]
        if self._watchdog is not None:
            keepers.append(asyncio.create_task(self._watchdog.run(self._answering), name="watchdog"))
        try:
            await asyncio.gather(*keepers)
        finally:
            for keeper in keepers:
                keeper.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)

    async def started(self) -> None:
        """Waits until every slot has been tried and at least one worker answers."""
        for slot in self.slots:
            await slot.tried.wait()
        await self._some_answers.wait()

    async def own_serves(self) -> None:
        """Waits until the server's own model answers."""
        await self._own_serves.wait()

    def find(self, version: RegisteredVersion) -> CheckedBundle | None:
        """The bundle of a version that is open under whatever name."""
        open_ones = (bundle for track in self._tracks() for bundle in (track.serving, track.previous))
        return next((bundle for bundle in open_ones if bundle is not None and bundle.version == version), None)

    async def open(self, bundle: CheckedBundle) -> None:
        """Phase one: every worker opens and warms a bundle.

        Raises BundleRefused if a worker cannot, WorkerEnded if a worker ends meanwhile; all workers have closed it
        then.
        """
        turns = asyncio.Semaphore(_OPENED_AT_ONCE)

        async def open_in(worker: WorkerHandle) -> None:
            async with turns:
                await worker.open(bundle)

        # Repeated, because a worker may join while the other workers open the bundle.
        while lacking := [worker for worker in self._joined() if not worker.has_open(bundle)]:
            results = await asyncio.gather(*(open_in(worker) for worker in lacking), return_exceptions=True)
            failures = [result for result in results if isinstance(result, BaseException)]
            if failures:
                self.close_unused(bundle)
                # A worker's refusal says more about the bundle than another worker's end.
                raise next((failure for failure in failures if isinstance(failure, BundleRefused)), failures[0])

    def close_unused(self, bundle: CheckedBundle) -> None:
        """Makes every worker close a bundle, unless it serves under some name, or is the target of a rollback."""
        if self._is_held(bundle):
            return
        for slot in self.slots:
            if slot.worker is not None:
                slot.worker.close_bundle(bundle)

    def keep_open(self, bundle: CheckedBundle, track: Track) -> None:
        """Makes a bundle that `open` has opened the target of a track's rollback."""
        track.previous = bundle

    async def switch(self, bundle: CheckedBundle, track: Track) -> None:
        """Phase two: every worker answers with this bundle under the track's name from now on; the previous bundle
        stays open.

        `serving` is set first, so that workers that join meanwhile open this bundle.
        """
        before, forgotten = track.serving, track.previous
        track.serving = bundle
        if before is not bundle:
            track.previous = before
        ready = [worker for worker in self._joined() if worker.has_open(bundle)]
        late = [worker for worker in self._joined() if not worker.has_open(bundle)]
        results = await asyncio.gather(*(worker.serve(bundle, track) for worker in ready), return_exceptions=True)
        for worker in ready:
            self._tell_canary(worker)
        for worker in late:
            self._start(self._catch_up(worker, track))
        moments = [result for result in results if isinstance(result, float)]
        swap_window_seconds = max(moments) - min(moments) if moments else 0.0
        if not track.is_further:
            self.swap_window_seconds = swap_window_seconds
            self._own.bundle_swaps += 1
            self._own_serves.set()
        if forgotten is not None:
            self.close_unused(forgotten)
        _log.info(
            "further_model_serving" if track.is_further else "model_serving",
            model_version=bundle.report.model_version,
            registry_version=bundle.version.number,
            alias=track.name,
            swap_window_ms=round(swap_window_seconds * 1e3, 3),
        )

    def add(self, track: Track) -> None:
        """Shows a further model, which does not answer yet."""
        self.further[track.name] = track
        self._tell_all(self._further_models())

    def withdraw(self, track: Track) -> None:
        """Makes all workers answer no more under a further model's name; the own model stands in for it."""
        bundles = [bundle for bundle in (track.serving, track.previous) if bundle is not None]
        track.serving = track.previous = None
        for worker in self._workers():
            worker.withdraw(track)
        for bundle in bundles:
            self.close_unused(bundle)
        if bundles:
            _log.warning("further_model_withdrawn", alias=track.name)

    def remove(self, track: Track) -> None:
        """Withdraws a further model, and shows it no more."""
        self.withdraw(track)
        self.further.pop(track.name, None)
        self._tell_all(self._further_models())

    def set_problem(self, track: Track, problem: str) -> None:
        """Shows what is wrong with a further model, if that has changed; empty: nothing is."""
        if track.problem == problem:
            return
        track.problem = problem
        if problem:
            _log.warning("further_model_problem", alias=track.name, reason=problem, serves=track.serving is not None)
        self._tell_all(self._further_models())

    def mend(self, track: Track) -> None:
        """Lets workers catch up that could not open what serves under a further model's name when the others did."""
        if track.serving is not None:
            for worker in self._answering():
                if not worker.serves(track):
                    self._start(self._catch_up(worker, track))

    def set_dependency(self, dependency: str, *, up: bool, problem: str = "") -> None:
        """Tells all workers the state of a dependency, and what is wrong with it, if either has changed."""
        state = DependencyChanged(dependency=dependency, up=up, problem=problem)
        if self._dependencies.get(dependency) != state:
            self._dependencies[dependency] = state
            self._tell_all(state)

    def set_experiments(self, document: Mapping[str, Any] | None, status: TableStatus) -> None:
        """Tells all workers which experiments are in force, and where they come from. `document` None: as before."""
        self._experiments = document if document is not None else self._experiments
        self._table_status = status
        self._tell_all(ExperimentsChanged(document=document, status=asdict(status)))

    def set_canary(self, model: str, status: CanaryStatus) -> None:
        """Tells all workers of the canary that a further model is, or was."""
        self._canary = CanaryChanged(
            experiment=status.experiment, model=model, percent=status.percent, status=asdict(status)
        )
        for worker in self._joined():
            self._tell_canary(worker)

    def layer_of_everybody(self) -> str:
        """The layer of the experiments in force that leaves no user to a canary; empty: none does."""
        if self._experiments is None:
            return ""
        return layer_of_everybody(make_table(self._experiments, locate=lambda _, __: ""))

    def show_breaker(self, breaker: Breaker) -> None:
        """Tells all workers the state of one of the supervisor's breakers."""
        self._own.watch(breaker)
        self._tell_all(BreakerChanged(name=breaker.name, state=str(breaker.state)))

    def count_refusal(self, refused: BundleRefused, version: RegisteredVersion) -> None:
        """Counts a refused bundle, once for the server, and tells all workers, which show it in their status."""
        self._own.count_refusal(
            refused.reason_kind,
            redacted(refused.reason),
            registry_version=version.number,
            model_version=version.model_version,
        )
        self._tell_all(self._refusals())

    async def view(self) -> ServerView:
        """A snapshot of the server for the metrics page.

        Counts start with the server and include workers that have ended. A worker that does not answer within half a
        second is counted with its last report.
        """
        workers = await asyncio.gather(*(self._view_slot(slot) for slot in self.slots))
        return ServerView(
            statistics=self._statistics(),
            workers=workers,
            serving=self.own.serving,
            variant=self.own.name,
            further=tuple(replace(track) for track in self.further.values()),
            swap_window_seconds=self.swap_window_seconds,
            experiments=self._table_status,
        )

    async def _view_slot(self, slot: Slot) -> WorkerView:
        worker = slot.worker
        replied = worker is not None and await worker.statistics(patience_seconds=_STATISTICS_SECONDS)
        return WorkerView(
            worker=slot.number,
            up=replied and slot.answers,
            restarts=slot.restarts,
            usage=usage(worker.pid) if worker is not None else None,
        )

    def _statistics(self) -> Statistics:
        """Sums over the workers, including workers that have ended."""
        total = Statistics()
        add(total, to_plain(self._own))
        add(total, to_plain(self._ended))
        for worker in self._workers():
            add(total, worker.last_statistics)
        for dependency, state in self._dependencies.items():
            total.dependencies_up[dependency] = state.up
        total.last_refusal = self._own.last_refusal
        return total

    async def stop(self, *, grace_seconds: float) -> list[int]:
        """Stops all workers at once, after `run` was cancelled. Returns their exit statuses."""
        for task in self._tasks:
            task.cancel()
        statuses = await asyncio.gather(*(worker.stop(grace_seconds=grace_seconds) for worker in self._workers()))
        await self._fork_server.close()
        return list(statuses)

    async def _keep(self, slot: Slot) -> None:
        """Starts a worker, and restarts it whenever it has ended."""
        while True:
            await self._run_one(slot)
            slot.restarts += 1
            if slot.failed_starts >= self._start_attempts and not any(other.answers for other in self.slots):
                raise WorkersFailed(f"worker {slot.number} ended {slot.failed_starts} times before it answered")
            delay_seconds = _delay_seconds(slot.quick_ends)
            _log.warning("worker_restarting", worker=slot.number, delay_seconds=delay_seconds)
            await asyncio.sleep(delay_seconds)

    async def _run_one(self, slot: Slot) -> None:
        """Runs one worker from its start to its end."""
        identity = WorkerIdentity(worker=slot.number, num_workers=self._num_workers)
        try:
            worker = slot.worker = await WorkerHandle.start(
                identity, self._fork_server, on_counted=lambda message: self.on_canary_counted(message)
            )
        except WorkerEnded as error:
            slot.failed_starts += 1
            slot.quick_ends += 1
            slot.tried.set()
            _log.error("worker_start_failed", worker=slot.number, reason=str(error))
            return
        answered_at: float | None = None
        try:
            await self._join(slot, worker)
            answered_at = time.monotonic()
            slot.failed_starts = 0
        except (WorkerEnded, BundleRefused) as error:
            slot.failed_starts += 1
            _log.error("worker_start_failed", worker=slot.number, reason=worker.failure or str(error))
        slot.tried.set()
        if answered_at is None:
            # The process may still live, unable to open the serving bundle; a new worker may be able to.
            status = await worker.stop(grace_seconds=_FAILED_START_SECONDS)
        else:
            status = await worker.end()
        slot.answers = slot.joined = False
        slot.worker = None
        steady = answered_at is not None and time.monotonic() - answered_at >= _STEADY_SECONDS
        slot.quick_ends = 0 if steady else slot.quick_ends + 1
        add_ended(self._ended, worker.last_statistics)
        _log.error("worker_ended", worker=slot.number, pid=worker.pid, exit_status=status, reason=worker.failure)

    async def _join(self, slot: Slot, worker: WorkerHandle) -> None:
        """Makes a new worker open the serving bundle, then listen. Raises BundleRefused, WorkerEnded."""
        while (bundle := self.own.serving) is not None:
            await worker.open(bundle)
            if self.own.serving is bundle:
                break
        # Nothing has suspended since `serving` was read: the next switch includes this worker.
        slot.joined = True
        for dependency in self._dependencies.values():
            worker.tell(dependency)
        for name, state in self._own.breakers.items():
            worker.tell(BreakerChanged(name=name, state=state))
        worker.tell(self._refusals())
        worker.tell(self._further_models())
        worker.tell(ExperimentsChanged(document=self._experiments, status=asdict(self._table_status)))
        self._tell_canary(worker)
        if bundle is not None:
            await worker.serve(bundle, self.own)
        await worker.listen(grpc_port=self._grpc_port, http_port=self._http_port)
        slot.answers = True
        self._some_answers.set()
        _log.info("worker_listening", worker=slot.number, pid=worker.pid)
        self._start(self._open_the_rest(worker))

    async def _open_the_rest(self, worker: WorkerHandle) -> None:
        """Opens what a restarted worker answers without for a while: the further models, and the previous bundles, so
        that it can roll back at once too."""
        for track in list(self.further.values()):
            await self._catch_up(worker, track)
        for track in self._tracks():
            await self._reopen_previous(worker, track)

    async def _reopen_previous(self, worker: WorkerHandle, track: Track) -> None:
        previous = track.previous
        if previous is None or worker.has_open(previous):
            return
        try:
            await worker.open(previous)
        except (BundleRefused, WorkerEnded) as error:
            _log.warning("previous_bundle_not_open", worker=worker.identity.worker, reason=str(error))
        if not self._is_held(previous):
            worker.close_bundle(previous)

    async def _catch_up(self, worker: WorkerHandle, track: Track) -> None:
        """Moves a worker to the bundle that serves under a track, which it did not have open when the other workers
        switched."""
        if (worker, track) in self._catching_up:
            return
        self._catching_up.add((worker, track))
        opened = None
        try:
            while (bundle := track.serving) is not None:
                if not worker.has_open(bundle):
                    opened = bundle
                    await worker.open(bundle)
                if bundle is track.serving:
                    await worker.serve(bundle, track)
                    self._tell_canary(worker)
                    return
        except (BundleRefused, WorkerEnded) as error:
            _log.error("worker_left_behind", worker=worker.identity.worker, alias=track.name, reason=str(error))
            if not track.is_further:
                worker.kill()
        finally:
            self._catching_up.discard((worker, track))
            if opened is not None and not self._is_held(opened):
                worker.close_bundle(opened)

    def _is_held(self, bundle: CheckedBundle) -> bool:
        """Whether the bundle must stay open, under whatever name."""
        return any(track.holds(bundle) for track in self._tracks())

    def _tracks(self) -> list[Track]:
        return [self.own, *self.further.values()]

    def _joined(self) -> list[WorkerHandle]:
        return [slot.worker for slot in self.slots if slot.joined and slot.worker is not None]

    def _answering(self) -> list[WorkerHandle]:
        return [slot.worker for slot in self.slots if slot.answers and slot.worker is not None]

    def _workers(self) -> list[WorkerHandle]:
        return [slot.worker for slot in self.slots if slot.worker is not None]

    def _tell_all(self, message: Message) -> None:
        for worker in self._joined():
            worker.tell(message)

    def _tell_canary(self, worker: WorkerHandle) -> None:
        """Tells a worker of the canary; one that has not opened its model yet is to give it no users."""
        track = self.further.get(self._canary.model)
        lacks_it = track is None or not worker.serves(track)
        worker.tell(replace(self._canary, percent=0.0) if lacks_it else self._canary)

    def _further_models(self) -> FurtherModels:
        return FurtherModels(problems={track.name: track.problem for track in self.further.values()})

    def _refusals(self) -> RefusalsCounted:
        return RefusalsCounted(
            by_kind=dict(self._own.refusals_by_kind),
            last=self._own.last_refusal,
            bundles=[asdict(refusal) for refusal in self._own.refusals],
        )

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work, name="late-worker")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _delay_seconds(quick_ends: int) -> float:
    """Delay before the next start: none after the first quick end, then doubling up to the longest delay."""
    if quick_ends <= 1:
        return 0.0
    return float(min(_FIRST_DELAY_SECONDS * 2.0 ** min(quick_ends - 2, 16), _LONGEST_DELAY_SECONDS))
