"""Bundles on this machine: `<data dir>/bundles/<registry version>/`, and which one served last.

A folder appears complete or not at all. What is in here has been checked before but is checked again before it serves:
disks fail too.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Final

from inference_server.errors import RegistryUnavailable
from inference_server.registry import RegisteredVersion, Registry
from tandem.contract.bundle import read_manifest
from tandem.contract.errors import BundleError

_RECORD: Final = "last_served.json"
_STAGING: Final = ".staging-"


class BundleCache:
    """The downloaded bundles of one registered model under one alias."""

    def __init__(self, data_dir: Path, *, model_name: str, alias: str) -> None:
        self._directory = data_dir / "bundles"
        self._followed = {"model_name": model_name, "alias": alias}

    def find(self, version: RegisteredVersion) -> Path | None:
        """The folder of a version, if it was downloaded before.

        A registry that was made anew counts from 1 again: a folder that holds another model than the version's tag
        names is not taken for it.
        """
        directory = self._directory / version.number
        try:
            held = read_manifest(directory).model_version
        except BundleError:
            return None
        return directory if held == version.model_version else None

    async def download(self, version: RegisteredVersion, registry: Registry) -> Path:
        """Downloads a version, in place of what may have been there. Raises RegistryUnavailable."""
        staging = self._directory / f"{_STAGING}{os.getpid()}"
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        try:
            downloaded = await registry.download(version, staging)
            self.discard(version)
            directory = self._directory / version.number
            downloaded.rename(directory)
        except OSError as error:
            raise RegistryUnavailable(f"version {version.number} cannot be stored: {error}") from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return directory

    def discard(self, version: RegisteredVersion) -> None:
        """Removes a version's folder. A worker that still has it mapped keeps what it mapped."""
        shutil.rmtree(self._directory / version.number, ignore_errors=True)

    def keep_only(self, numbers: Collection[str]) -> None:
        """Removes the folders of all other versions, and what a killed download left."""
        for entry in self._directory.iterdir():
            other_version = entry.name.isdecimal() and entry.name not in numbers
            downloader = entry.name.removeprefix(_STAGING)
            abandoned = entry.name.startswith(_STAGING) and not Path("/proc", downloader).exists()
            if other_version or abandoned:
                shutil.rmtree(entry, ignore_errors=True)

    def record_served(self, version: RegisteredVersion) -> None:
        """Remembers what serves, for a start without a registry."""
        staging = self._directory / f"{_RECORD}.{os.getpid()}"
        staging.write_text(json.dumps({**self._followed, "version": asdict(version)}))
        staging.replace(self._directory / _RECORD)

    def last_served(self) -> RegisteredVersion | None:
        """What served last under this name and alias, if it is still here."""
        try:
            record = json.loads((self._directory / _RECORD).read_text())
            version = RegisteredVersion(**record.pop("version"))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return version if record == self._followed else None
