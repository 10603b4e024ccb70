"""How a bundle comes to serve: seen in the registry, downloaded, checked, and only then handed to the worker.

Whatever fails on the way leaves the worker with what it serves.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import structlog

from inference_server.bundle_cache import BundleCache
from inference_server.check_process import check_in_child
from inference_server.errors import BundleRefused, RegistryUnavailable
from inference_server.registry import RegisteredVersion, Registry
from inference_server.statistics import REGISTRY
from inference_server.worker_process import WorkerProcess

_log = structlog.get_logger()

_NO_VERSION: Final = RegisteredVersion("", "", "")


async def serve_folder(directory: Path, worker: WorkerProcess) -> None:
    """Checks one bundle folder and has it served. Raises BundleRefused."""
    try:
        await check_in_child(directory)
        await worker.open_bundle(directory, registry_version="", variant="")
    except BundleRefused as refused:
        await _report_refusal(refused, _NO_VERSION, worker)
        raise


class AliasFollower:
    """Keeps the worker on the version that a registry alias names."""

    def __init__(self, *, registry: Registry, cache: BundleCache, worker: WorkerProcess, alias: str) -> None:
        self._registry = registry
        self._cache = cache
        self._worker = worker
        self._alias = alias
        self._serving: RegisteredVersion | None = None
        self._refused: RegisteredVersion | None = None
        self._registry_problem: str | None = None
        self._knows_no_version = False
        self._tried_cache = False

    async def run(self, *, poll_seconds: float) -> None:
        """Follows the alias until it is cancelled."""
        while True:
            try:
                await self._follow()
                await self._registry_is(up=True)
            except RegistryUnavailable as error:
                await self._registry_is(up=False, problem=str(error))
                await self._serve_cached()
            await asyncio.sleep(poll_seconds)

    async def _follow(self) -> None:
        """Serves what the alias names now. Raises RegistryUnavailable."""
        version = await self._registry.aliased_version()
        if version is None:
            if not self._knows_no_version:
                _log.warning("alias_has_no_version", alias=self._alias)
            self._knows_no_version = True
            return
        self._knows_no_version = False
        if version == self._refused:
            return
        if self._refused is not None:
            _log.info("alias_left_refused_bundle", registry_version=self._refused.number)
            # What was refused may be tried again when the alias comes back to it.
            self._refused = None
        if version == self._serving:
            return
        _log.info("bundle_found", registry_version=version.number, model_version=version.model_version)
        try:
            await self._serve(version, await self._checked_folder(version))
        except BundleRefused as refused:
            self._refused = version
            self._cache.discard(version)
            await _report_refusal(refused, version, self._worker)

    async def _checked_folder(self, version: RegisteredVersion) -> Path:
        """A folder that passed the check: from the cache, or else, or if that one is damaged, from the registry."""
        cached = self._cache.find(version)
        if cached is not None:
            try:
                await check_in_child(cached)
            except BundleRefused as refused:
                _log.warning("cached_bundle_damaged", registry_version=version.number, reason=refused.reason)
            else:
                return cached
        downloaded = await self._cache.download(version, self._registry)
        _log.info("bundle_downloaded", registry_version=version.number, directory=str(downloaded))
        await check_in_child(downloaded)
        return downloaded

    async def _serve(self, version: RegisteredVersion, directory: Path) -> None:
        await self._worker.open_bundle(directory, registry_version=version.number, variant=self._alias)
        # The one before stays on disk beside the new one, so that moving the alias back needs no download.
        previous, self._serving = self._serving, version
        self._cache.record_served(version)
        self._cache.keep_only([kept.number for kept in (version, previous) if kept is not None])

    async def _serve_cached(self) -> None:
        """At a start without a registry: serves what served last."""
        if self._serving is not None or self._tried_cache:
            return
        self._tried_cache = True
        version = self._cache.last_served()
        directory = None if version is None else self._cache.find(version)
        if version is None or directory is None:
            _log.warning("no_cached_bundle", alias=self._alias)
            return
        try:
            await check_in_child(directory)
            await self._serve(version, directory)
        except BundleRefused as refused:
            await _report_refusal(refused, version, self._worker)
        else:
            _log.warning("serving_cached_bundle", registry_version=version.number, model_version=version.model_version)

    async def _registry_is(self, *, up: bool, problem: str | None = None) -> None:
        if up and self._registry_problem is not None:
            _log.info("registry_up")
        elif not up and self._registry_problem is None:
            _log.warning("registry_unavailable", reason=problem)
        self._registry_problem = problem
        await self._worker.set_dependency(REGISTRY, up=up)


async def _report_refusal(refused: BundleRefused, version: RegisteredVersion, worker: WorkerProcess) -> None:
    _log.error(
        "bundle_refused",
        registry_version=version.number,
        model_version=version.model_version,
        reason_kind=refused.reason_kind,
        reason=refused.reason,
    )
    await worker.count_refusal(refused, registry_version=version.number)
