"""Versions that the alias names and that must not serve all the same, remembered across restarts.

Refused: it failed the check. Rolled back: an operator went back from it while the alias could not be moved. Either is
forgotten when the alias names another version, so that a version is tried anew once the alias comes back to it.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import asdict
from pathlib import Path
from typing import Final

import structlog

from inference_server.core.errors import BundleRefused, RefusalKind
from inference_server.supervisor.json_files import read_json, version_of, write_json
from inference_server.supervisor.registry import RegisteredVersion

_log = structlog.get_logger()

_FILE: Final = "set_aside.json"


class SetAside:
    """At most one refused version and one that was rolled back, of one registered model under one alias."""

    def __init__(self, data_dir: Path, *, model_name: str, alias: str) -> None:
        """Reads what was remembered."""
        self._path = data_dir / _FILE
        self._followed = {"model_name": model_name, "alias": alias}
        record = read_json(self._path)
        if any(record.get(name) != value for name, value in self._followed.items()):
            record = {}
        self.refused: RegisteredVersion | None = version_of(record.get("refused"))
        self.refusal: BundleRefused | None = None
        """Why; there exactly where `refused` is."""
        self.rolled_back: RegisteredVersion | None = version_of(record.get("rolled_back"))
        if self.refused is not None:
            kind = str(record.get("reason_kind"))
            known = kind in set(RefusalKind)
            self.refusal = BundleRefused(
                RefusalKind(kind) if known else RefusalKind.CHECK_FAILED, str(record.get("reason"))
            )

    def refuse(self, version: RegisteredVersion, refusal: BundleRefused) -> None:
        """Remembers a version that failed the check."""
        self.refused, self.refusal = version, refusal
        self._write()

    def roll_back(self, version: RegisteredVersion) -> None:
        """Remembers a version that an operator went back from."""
        self.rolled_back = version
        self._write()

    def forget_refusal(self) -> RegisteredVersion | None:
        """Lets the refused version be tried again; returns it."""
        forgotten, self.refused, self.refusal = self.refused, None, None
        if forgotten is not None:
            self._write()
        return forgotten

    def forget_roll_back(self) -> RegisteredVersion | None:
        """Lets the version that was rolled back serve again; returns it."""
        forgotten, self.rolled_back = self.rolled_back, None
        if forgotten is not None:
            self._write()
        return forgotten

    def _write(self) -> None:
        if self.refused is None and self.rolled_back is None:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)
            return
        record = {
            **self._followed,
            "refused": asdict(self.refused) if self.refused else None,
            "reason_kind": self.refusal.reason_kind if self.refusal else None,
            "reason": self.refusal.reason if self.refusal else None,
            "rolled_back": asdict(self.rolled_back) if self.rolled_back else None,
            "written_at_seconds": time.time(),
        }
        try:
            write_json(self._path, record)
        except OSError as error:
            # It is remembered until this process ends, which is what can be done.
            _log.warning("not_remembered", path=str(self._path), reason=str(error))
