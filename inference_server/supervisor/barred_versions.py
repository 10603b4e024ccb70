"""Versions that must not serve although the alias names them, remembered across restarts.

A refused version has failed its check. A rolled-back version is one that an operator went back from while the alias
could not be moved. Both are forgotten when the alias names another version: if it later returns to the same version,
that version is tried again.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Final

import structlog

from inference_server.core.errors import BundleRefused, RefusalKind
from inference_server.supervisor.json_files import fields_of_version, read_json, version_from_fields, write_json
from tandem.ops.model_registry import RegisteredVersion

_log = structlog.get_logger()

_FILE: Final = "set_aside"
_SUFFIX: Final = ".json"
"""Users' data folders hold files of this name since version 0.2: a new name would make the server forget a refusal."""


class BarredVersions:
    """At most one refused and one rolled-back version of one registered model under one alias."""

    def __init__(self, data_dir: Path, *, model_name: str, alias: str, is_further: bool = False) -> None:
        """Reads the file in `data_dir`; a missing or damaged one bars no version. An alias that is served beside the
        server's own (`is_further`) has a file of its own."""
        self._path = data_dir / (f"{_FILE}-{alias}{_SUFFIX}" if is_further else f"{_FILE}{_SUFFIX}")
        self._followed = {"model_name": model_name, "alias": alias}
        record = read_json(self._path)
        if any(record.get(name) != value for name, value in self._followed.items()):
            record = {}
        self.refused: RegisteredVersion | None = version_from_fields(record.get("refused"))
        self.refusal: BundleRefused | None = None
        """Why `refused` was refused; None exactly when `refused` is None."""
        self.rolled_back: RegisteredVersion | None = version_from_fields(record.get("rolled_back"))
        if self.refused is not None:
            kind = str(record.get("reason_kind"))
            known = kind in set(RefusalKind)
            self.refusal = BundleRefused(
                RefusalKind(kind) if known else RefusalKind.CHECK_FAILED, str(record.get("reason"))
            )

    def refuse(self, version: RegisteredVersion, refusal: BundleRefused) -> None:
        """Bars a version that failed its check."""
        self.refused, self.refusal = version, refusal
        self._write()

    def roll_back(self, version: RegisteredVersion) -> None:
        """Bars a version that an operator went back from."""
        self.rolled_back = version
        self._write()

    def forget_refusal(self) -> RegisteredVersion | None:
        """Lets the refused version be tried again. Returns that version, or None if there is none."""
        forgotten, self.refused, self.refusal = self.refused, None, None
        if forgotten is not None:
            self._write()
        return forgotten

    def forget_roll_back(self) -> RegisteredVersion | None:
        """Lets the rolled-back version serve again. Returns that version, or None if there is none."""
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
            "refused": fields_of_version(self.refused) if self.refused else None,
            "reason_kind": self.refusal.reason_kind if self.refusal else None,
            "reason": self.refusal.reason if self.refusal else None,
            "rolled_back": fields_of_version(self.rolled_back) if self.rolled_back else None,
            "written_at_seconds": time.time(),
        }
        try:
            write_json(self._path, record)
        except OSError as error:
            # The version stays barred until this process ends.
            _log.warning("not_remembered", path=str(self._path), reason=str(error))
