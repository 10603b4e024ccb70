"""How a bundle comes to serve: found in the registry, downloaded, checked, opened by all workers, and only then served.

If a step fails, the workers keep serving their current bundle.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import structlog

from inference_server.bundle_check.child_process import check_in_child
from inference_server.core.breaker import Breaker
from inference_server.core.errors import BundleRefused, CommandFailed, RefusalKind, RegistryUnavailable, WorkerEnded
from inference_server.supervisor.barred_versions import BarredVersions
from inference_server.supervisor.bundle_cache import BundleCache
from inference_server.supervisor.checked_bundle import CheckedBundle
from inference_server.supervisor.registry import NO_VERSION, Registry
from inference_server.supervisor.track import Track
from inference_server.supervisor.worker_pool import WorkerPool
from inference_server.telemetry.statistics import REGISTRY
from tandem.ops.model_registry import RegisteredVersion
from tandem.ops.secrets import redacted

_log = structlog.get_logger()

_MAX_OPEN_POLLS: Final = 8
"""Upper bound of the back-off while the registry is unreachable, in polls."""
_OPENINGS: Final = 2
"""Attempts at opening a version. If workers end during every attempt, the version is taken to be the cause."""


async def serve_folder(directory: Path, pool: WorkerPool, *, check_seconds: float) -> None:
    """Checks one bundle folder and has it served. Raises BundleRefused."""
    for attempt in range(1, _OPENINGS + 1):
        try:
            report = await check_in_child(directory, seconds=check_seconds)
            bundle = CheckedBundle(directory=directory, version=NO_VERSION, report=report)
            await pool.open(bundle)
            await pool.switch(bundle, pool.own)
        except BundleRefused as refused:
            _report_refusal(refused, NO_VERSION, pool)
            raise
        except WorkerEnded as error:
            _log.warning("opening_interrupted", directory=str(directory), reason=str(error))
            if attempt == _OPENINGS:
                crashing = BundleRefused(RefusalKind.CHECK_FAILED, str(error))
                _report_refusal(crashing, NO_VERSION, pool)
                raise crashing from error
        else:
            return


class AliasFollower:
    """Keeps the workers on the version that a registry alias names, unless an operator has rolled back from it.

    A further model is followed like the server's own, with two differences. Once its alias has gone, it is withdrawn:
    an experiment whose alias names nothing is over, while a server must answer with something. And what is wrong with
    it is shown as the problem of that model, and not as the server's.
    """

    def __init__(
        self,
        *,
        registry: Registry,
        cache: BundleCache,
        barred_versions: BarredVersions,
        pool: WorkerPool,
        track: Track,
        check_seconds: float,
    ) -> None:
        """`track` is what the alias serves; its name is the alias. `check_seconds` bounds the check of one bundle."""
        self._registry = registry
        self._cache = cache
        self._barred_versions = barred_versions
        self._pool = pool
        self._track = track
        self._alias = track.name
        self._check_seconds = check_seconds
        self._registry_is_down = False
        self._registry_problem = ""
        self._why_no_version = ""
        self._tried_cache = False
        self._tried_previous = False
        self._interrupted: RegisteredVersion | None = None
        self._roll_backs = 0
        self._look_now = asyncio.Event()

    async def run(self, *, poll_seconds: float) -> None:
        """Follows the alias until it is cancelled."""
        self._show_refusal()
        breaker = Breaker(
            REGISTRY,
            open_seconds=poll_seconds,
            max_open_seconds=_MAX_OPEN_POLLS * poll_seconds,
            on_change=None if self._track.is_further else self._pool.show_breaker,
        )
        if not self._track.is_further:
            self._pool.show_breaker(breaker)
        while True:
            # After an operator has moved the alias, the breaker is bypassed.
            if self._look_now.is_set() or breaker.allows():
                self._look_now.clear()
                await self._look(breaker)
            if self._track.serving is not None:
                await self._reopen_previous()
            elif not (self._track.is_further and self._why_no_version):
                await self._serve_cached()
            if self._track.is_further:
                self._show_problem()
                self._pool.mend(self._track)
            try:
                async with asyncio.timeout(poll_seconds):
                    await self._look_now.wait()
            except TimeoutError:
                continue

    async def _look(self, breaker: Breaker) -> None:
        try:
            await self._follow()
        except RegistryUnavailable as error:
            breaker.failed()
            self._registry_is(up=False, problem=str(error))
        else:
            breaker.succeeded()
            self._registry_is(up=True, problem=self._why_no_version)

    async def roll_back(self, to: str | None) -> AsyncIterator[str]:
        """Goes back to the version that served before, or to the version numbered `to`: this server first, then the
        alias.

        Yields one line for the operator for each step done. Raises CommandFailed for a step that could not be done.
        """
        serving, previous = self._track.serving, self._track.previous
        if serving is None:
            raise CommandFailed(f"this server does not serve any version under {self._alias} yet")
        if to is None and previous is None:
            raise CommandFailed("no version served before this one here: say which with --to VERSION")
        number = previous.version.number if to is None and previous is not None else str(to)
        # A version that is being downloaded or opened now must not take over after the rollback.
        self._roll_backs += 1
        if previous is not None and previous.version.number == number:
            await self._go_back(serving, previous)
            yield (
                f"version {number} ({previous.report.model_version}) serves, "
                f"instead of version {serving.version.number} ({serving.report.model_version})"
            )
        try:
            await self._registry.move_alias(number)
        except RegistryUnavailable as error:
            _log.warning("alias_not_moved", alias=self._alias, registry_version=number, reason=str(error))
            raise CommandFailed(self._alias_not_moved(number, serving.version, str(error))) from error
        _log.info("alias_moved", alias=self._alias, registry_version=number)
        yield f"the alias {self._alias} names version {number}"
        self._look_now.set()
        if number not in {serving.version.number, previous.version.number if previous else None}:
            yield f"version {number} is not open here: it serves after download and check, see the log"

    def look(self) -> None:
        """Looks at the registry now."""
        self._look_now.set()

    def forget(self) -> None:
        """Removes what this machine keeps for the alias, which is no longer followed."""
        self._barred_versions.forget_refusal()
        self._barred_versions.forget_roll_back()
        self._cache.forget()

    def forget_refusal(self) -> str:
        """Lets a refused version be tried again. Returns a line for the operator."""
        forgotten = self._barred_versions.forget_refusal()
        if forgotten is None:
            return "no version is remembered as refused"
        self._look_now.set()
        return f"version {forgotten.number} ({forgotten.model_version}) is tried again if the alias names it"

    async def _go_back(self, serving: CheckedBundle, previous: CheckedBundle) -> None:
        self._barred_versions.roll_back(serving.version)
        if self._barred_versions.refused == previous.version:
            self._barred_versions.forget_refusal()
        _log.warning(
            "rolling_back", registry_version=previous.version.number, from_registry_version=serving.version.number
        )
        await self._pool.switch(previous, self._track)
        with contextlib.suppress(OSError):  # it serves; only a restart without a registry would miss the record
            self._cache.record_served(previous.version, serving.version)

    def _alias_not_moved(self, number: str, from_version: RegisteredVersion, problem: str) -> str:
        now = self._track.serving
        said = f"the alias {self._alias} could not be moved to version {number}: {problem}"
        if now is None or now.version.number != number:
            return said
        return (
            f"{said}. This server stays on version {number} for as long as the alias names version "
            f"{from_version.number}; other servers do not know of it"
        )

    async def _follow(self) -> None:
        """Serves the version that the alias names now. Raises RegistryUnavailable."""
        roll_backs = self._roll_backs
        version = await self._registry.aliased_version()
        if version is None:
            why = await self._registry.why_no_version()
            if why != self._why_no_version:
                name = self._registry.model_name
                _log.warning("alias_has_no_version", alias=self._alias, model_name=name, reason=why)
            self._why_no_version = why
            if self._track.is_further and self._track.serving is not None:
                self._pool.withdraw(self._track)
            return
        if self._why_no_version:
            self._why_no_version = ""
            self._registry_is(up=True, problem="")  # known now, not when the version has been downloaded
        if roll_backs != self._roll_backs or self._must_not_serve(version):
            return
        serving = self._track.serving
        if serving is not None and version == serving.version:
            return
        _log.info("bundle_found", registry_version=version.number, model_version=version.model_version)
        try:
            async with self._cache.in_work.turn(version):
                await self._serve(await self._checked(version), roll_backs=roll_backs)
        except BundleRefused as refused:
            self._refuse(version, refused)
        except WorkerEnded as error:
            _log.warning("opening_interrupted", registry_version=version.number, reason=str(error))
            if self._interrupted == version:
                self._refuse(version, BundleRefused(RefusalKind.CHECK_FAILED, str(error)))
            self._interrupted = version

    def _must_not_serve(self, version: RegisteredVersion) -> bool:
        """Whether the version is barred. Forgets barred versions that the alias no longer names."""
        barred_versions = self._barred_versions
        if barred_versions.refused not in {None, version} and (left := barred_versions.forget_refusal()):
            _log.info("alias_left_refused_bundle", registry_version=left.number)
        if barred_versions.rolled_back not in {None, version} and (left := barred_versions.forget_roll_back()):
            _log.info("alias_left_rolled_back_version", registry_version=left.number)
        return version in {barred_versions.refused, barred_versions.rolled_back}

    async def _checked(self, version: RegisteredVersion) -> CheckedBundle:
        """The version as a checked bundle: open under whatever name, or from the cache, or downloaded if the cache
        lacks it or is damaged."""
        is_open = self._pool.find(version)
        if is_open is not None:
            return is_open
        serving = self._track.serving.directory if self._track.serving else None
        directory = self._cache.find(version)
        if directory is not None:
            try:
                return await self._check(version, directory, previous=serving)
            except BundleRefused as refused:
                _log.warning("cached_bundle_damaged", registry_version=version.number, reason=refused.reason)
        directory = await self._cache.download(version, self._registry)
        _log.info("bundle_downloaded", registry_version=version.number, directory=str(directory))
        return await self._check(version, directory, previous=serving)

    async def _check(
        self, version: RegisteredVersion, directory: Path, *, previous: Path | None = None
    ) -> CheckedBundle:
        report = await check_in_child(directory, seconds=self._check_seconds, previous=previous)
        return CheckedBundle(directory=directory, version=version, report=report)

    async def _serve(self, bundle: CheckedBundle, *, roll_backs: int) -> None:
        try:
            await self._pool.open(bundle)
        except asyncio.CancelledError:
            self._pool.close_unused(bundle)
            raise
        if roll_backs != self._roll_backs:
            _log.warning("bundle_overtaken_by_roll_back", registry_version=bundle.version.number)
            self._pool.close_unused(bundle)
            return
        await self._pool.switch(bundle, self._track)
        self._cache_keeps(bundle)

    def _cache_keeps(self, bundle: CheckedBundle) -> None:
        # The previous version stays on disk beside the new one, so that a restarted worker can open it.
        previous = self._track.previous.version if self._track.previous else self._cache.served_before()
        if previous == bundle.version:
            previous = None
        try:
            self._cache.record_served(bundle.version, previous)
            self._cache.keep_only([kept.number for kept in (bundle.version, previous) if kept is not None])
        except OSError as error:
            _log.warning("not_remembered", registry_version=bundle.version.number, reason=str(error))

    async def _serve_cached(self) -> None:
        """If the version that the alias names cannot serve at the start, serves the version that served last."""
        if self._tried_cache:
            return
        self._tried_cache = True
        version = self._cache.last_served()
        directory = None if version is None else self._cache.find(version)
        if version is None or directory is None:
            _log.warning("no_cached_bundle", alias=self._alias)
            return
        try:
            async with self._cache.in_work.turn(version):
                bundle = self._pool.find(version) or await self._check(version, directory)
                await self._serve(bundle, roll_backs=self._roll_backs)
        except BundleRefused as refused:
            _report_refusal(refused, version, self._pool)
        except WorkerEnded as error:
            self._tried_cache = False
            _log.warning("opening_interrupted", registry_version=version.number, reason=str(error))
        else:
            _log.warning("serving_cached_bundle", registry_version=version.number, model_version=version.model_version)

    async def _reopen_previous(self) -> None:
        """After a restart: opens the version that served before the current one, so that a rollback is immediate."""
        version = self._cache.served_before()
        if self._track.previous is not None or version is None or self._tried_previous:
            return
        self._tried_previous = True
        directory = self._cache.find(version)
        if directory is None:
            return
        try:
            async with self._cache.in_work.turn(version):
                bundle = self._pool.find(version) or await self._check(version, directory)
                await self._pool.open(bundle)
                self._pool.keep_open(bundle, self._track)
        except (BundleRefused, WorkerEnded) as error:
            _log.warning("previous_bundle_not_open", registry_version=version.number, reason=str(error))
            return
        _log.info("previous_bundle_open", registry_version=version.number, model_version=version.model_version)

    def _refuse(self, version: RegisteredVersion, refused: BundleRefused) -> None:
        self._barred_versions.refuse(version, refused)
        self._cache.discard(version)
        _report_refusal(refused, version, self._pool)

    def _show_refusal(self) -> None:
        """After a restart: logs and counts the version that was refused before, which is not tried again."""
        version, refusal = self._barred_versions.refused, self._barred_versions.refusal
        if version is not None and refusal is not None:
            _log.warning("bundle_still_refused", registry_version=version.number, reason=refusal.reason)
            self._pool.count_refusal(refusal, version)

    def _show_problem(self) -> None:
        """Shows what keeps a further model, or its newest version, from serving."""
        refused, refusal = self._barred_versions.refused, self._barred_versions.refusal
        problem = self._why_no_version
        self._track.is_refused = refused is not None and refusal is not None
        if not problem and refused is not None and refusal is not None:
            problem = f"version {refused.number} is refused: {refusal.reason_kind}: {refusal.reason}"
        if not problem and self._track.serving is None:
            problem = self._registry_problem or "none of its versions has been opened yet"
        self._pool.set_problem(self._track, redacted(problem))

    def _registry_is(self, *, up: bool, problem: str) -> None:
        self._registry_problem = "" if up else problem
        if self._track.is_further:
            return
        if up and self._registry_is_down:
            _log.info("registry_up")
        elif not up and not self._registry_is_down:
            _log.warning("registry_unavailable", reason=problem)
        self._registry_is_down = not up
        self._pool.set_dependency(REGISTRY, up=up, problem=redacted(problem))


def _report_refusal(refused: BundleRefused, version: RegisteredVersion, pool: WorkerPool) -> None:
    _log.error(
        "bundle_refused",
        registry_version=version.number,
        model_version=version.model_version,
        reason_kind=refused.reason_kind,
        reason=refused.reason,
    )
    pool.count_refusal(refused, version)
    pool.on_refusal(version.number, str(refused))
