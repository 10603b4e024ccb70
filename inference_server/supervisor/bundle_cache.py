"""Bundles on this machine: `<data dir>/bundles/<registry version>/`, and records of the versions that served last.

All aliases that a server serves share the folders; each has a record of its own.

A folder appears complete or not at all. A cached bundle passed its check once, but is checked again before it serves:
disks fail too.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterator
from pathlib import Path
from typing import Final

from inference_server.core.errors import RegistryUnavailable
from inference_server.supervisor.json_files import fields_of_version, read_json, version_from_fields, write_json
from inference_server.supervisor.registry import Registry
from tandem.contract.bundle import read_manifest
from tandem.contract.errors import BundleError
from tandem.contract.paths import path_within
from tandem.ops.model_registry import RegisteredVersion

_RECORD: Final = "last_served"
"""Of the server's own alias; that of a further one has its name behind it."""
_SUFFIX: Final = ".json"
_STAGING: Final = ".staging-"


class VersionsInWork:
    """The versions that are downloaded, checked or opened at this moment, one at a time for each version."""

    def __init__(self) -> None:
        self._turns: dict[str, asyncio.Lock] = {}
        self._num_waiting: Counter[str] = Counter()

    def __contains__(self, number: str) -> bool:
        return self._num_waiting[number] > 0

    @contextlib.asynccontextmanager
    async def turn(self, version: RegisteredVersion) -> AsyncIterator[None]:
        """Waits until nobody else works on the version. Of two aliases that name a new version, the second finds it
        open."""
        number = version.number
        self._num_waiting[number] += 1
        try:
            async with self._turns.setdefault(number, asyncio.Lock()):
                yield
        finally:
            self._num_waiting[number] -= 1
            if not self._num_waiting[number]:
                del self._num_waiting[number]
                self._turns.pop(number, None)


class BundleCache:
    """The downloaded bundles of one registered model under one alias."""

    def __init__(
        self,
        data_dir: Path,
        *,
        model_name: str,
        alias: str,
        is_further: bool = False,
        in_work: VersionsInWork | None = None,
    ) -> None:
        """`is_further`: the alias is served beside the server's own. `in_work` is shared by the caches of a server."""
        self._directory = data_dir / "bundles"
        self._record = self._directory / (f"{_RECORD}-{alias}{_SUFFIX}" if is_further else f"{_RECORD}{_SUFFIX}")
        self.in_work: Final = in_work or VersionsInWork()
        self._followed = {"model_name": model_name, "alias": alias}

    def find(self, version: RegisteredVersion) -> Path | None:
        """The folder of a version, if it was downloaded before.

        A recreated registry numbers its versions from 1 again: a folder is ignored if its model is not the one that the
        version's tag names.
        """
        try:
            directory = self._folder(version)
            held = read_manifest(directory).model_version
        except BundleError:
            return None
        return directory if held == version.model_version else None

    async def download(self, version: RegisteredVersion, registry: Registry) -> Path:
        """Downloads a version, replacing its folder if there is one. Raises RegistryUnavailable."""
        staging = self._directory / f"{_STAGING}{os.getpid()}-{version.number}"
        shutil.rmtree(staging, ignore_errors=True)
        try:
            staging.mkdir(parents=True)
            downloaded = await registry.download(version, staging)
            self.discard(version)
            directory = self._folder(version)
            downloaded.rename(directory)
        except (OSError, BundleError) as error:
            raise RegistryUnavailable(f"version {version.number} cannot be stored: {error}") from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return directory

    def discard(self, version: RegisteredVersion) -> None:
        """Removes a version's folder. A worker that has its files mapped keeps the mapping."""
        with contextlib.suppress(BundleError):
            shutil.rmtree(self._folder(version), ignore_errors=True)

    def _folder(self, version: RegisteredVersion) -> Path:
        """The folder of a version. Raises BundleIncompatible if its number is not one, or a link lies in its place."""
        return path_within(self._directory, version.number, "registry version")

    def keep_only(self, numbers: Collection[str]) -> None:
        """Removes the folders of all other versions, and the staging folders of downloads that were killed. What served
        under the other aliases of the model stays, and so does what is in work."""
        kept = {*numbers, *self._kept_by_others()}
        for entry in self._directory.iterdir():
            other_version = entry.name.isdecimal() and entry.name not in kept and entry.name not in self.in_work
            downloader = entry.name.removeprefix(_STAGING).partition("-")[0]
            abandoned = entry.name.startswith(_STAGING) and not Path("/proc", downloader).exists()
            if other_version or abandoned:
                shutil.rmtree(entry, ignore_errors=True)

    def record_served(self, version: RegisteredVersion, previous: RegisteredVersion | None) -> None:
        """Records the version that serves and the one before it, for a start without a registry and for a rollback.
        Raises OSError."""
        record = {
            **self._followed,
            "version": fields_of_version(version),
            "previous": fields_of_version(previous) if previous else None,
        }
        write_json(self._record, record)

    def forget(self) -> None:
        """Removes the record, and the folders that nobody else needs."""
        with contextlib.suppress(OSError):
            self._record.unlink(missing_ok=True)
            self.keep_only(())

    def _kept_by_others(self) -> Iterator[str]:
        for path in self._directory.glob(f"{_RECORD}*{_SUFFIX}"):
            record = read_json(path)
            if path != self._record and record.get("model_name") == self._followed["model_name"]:
                versions = (version_from_fields(record.get(which)) for which in ("version", "previous"))
                yield from (version.number for version in versions if version is not None)

    def last_served(self) -> RegisteredVersion | None:
        """The version that served last under this name and alias; None where none is recorded."""
        return self._recorded("version")

    def served_before(self) -> RegisteredVersion | None:
        """The version that served before `last_served`; None where none is recorded."""
        return self._recorded("previous")

    def _recorded(self, which: str) -> RegisteredVersion | None:
        record = read_json(self._record)
        if any(record.get(name) != value for name, value in self._followed.items()):
            return None
        return version_from_fields(record.get(which))
