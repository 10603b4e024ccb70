"""The held-out users of bundles: in the folders of bundles on this machine, and in the registry.

A bundle holds about a thousand users as they were before their last choice. The file and its checksum in the manifest
change together; nothing else of the bundle does, and it serves as before. Beside the bundle, the registry holds the
list of users that a warm start continues, and a report with a few example users.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from feature_sync.bundles.registry import BUNDLE_CACHE, one_line_errors, open_registry
from feature_sync.core.errors import RegistryError, StorageError
from feature_sync.core.settings import Settings
from feature_sync.personal_data import parquet_rows
from feature_sync.personal_data.place import PartlyDone, Record, Subject, erased_from, word_pattern
from feature_sync.personal_data.replaced_files import replace_list, settle, staged_path
from tandem.contract import names
from tandem.contract.bundle_files import HELD_OUT_USERS
from tandem.contract.manifest import MANIFEST
from tandem.ops.file_lock import folder_lock
from tandem.ops.model_registry import RegisteredVersion
from tandem.ops.settings_types import sqlite_file

_HELD_OUT: Final = HELD_OUT_USERS.name
_HELD_OUT_PATH: Final = f"{names.BUNDLE_ARTIFACT_PATH}/{_HELD_OUT}"
_MANIFEST_PATH: Final = f"{names.BUNDLE_ARTIFACT_PATH}/{MANIFEST}"
_WEIGHTS_USERS: Final = "weights/users.parquet"
_REPORT: Final = "report.html"
_CLEANING: Final = "cleaning_report.txt"
_NOBODY: Final = "(deleted user)"
_ATTEMPTS: Final = 3


class BundleFolders:
    """Folders of bundles on this machine: the caches of server and feature_sync, exported bundles, the served one."""

    name = "bundle_folders"

    def __init__(self, settings: Settings) -> None:
        self._parents = (settings.data_dir / "bundles", settings.data_dir / BUNDLE_CACHE, settings.data_dir)
        self._served = settings.bundle_path
        self.where = ", ".join(map(str, (*self._parents[:2], *([self._served] if self._served else ()))))

    def find(self, user: Subject) -> Sequence[Record]:
        """See `Place`."""
        return [
            {"file": str(folder / _HELD_OUT), **line}
            for folder in self._folders()
            for line in _lines_of((folder / _HELD_OUT).read_bytes(), user.user_id)
        ]

    def erase(self, user: Subject) -> int:
        """See `Place`."""
        return erased_from(self._folders(), lambda folder: _erase_from_folder(folder, user.user_id))

    def _folders(self) -> list[Path]:
        found = {folder for parent in self._parents for folder in parent.glob("[!.]*") if folder.is_dir()}
        if self._served is not None:
            found.add(self._served)
        return sorted(folder for folder in found if (folder / MANIFEST).is_file() and (folder / _HELD_OUT).is_file())


def _erase_from_folder(folder: Path, user_id: str) -> int:
    # Deletions of another data folder may rewrite the same bundle.
    with folder_lock(folder):
        return _rewrite(folder, user_id)


def _rewrite(folder: Path, user_id: str) -> int:
    manifest = _manifest((folder / MANIFEST).read_bytes(), str(folder))
    settle(folder, {name: entry["sha256"] for name, entry in manifest["files"].items()})
    held_out = (folder / _HELD_OUT).read_bytes()
    num_lines = len(list(_lines_of(held_out, user_id)))
    if num_lines:
        kept = _without(held_out, user_id)
        staged_path(folder / _HELD_OUT).write_bytes(kept)
        manifest["files"][_HELD_OUT] = _entry(kept)
        replace_list(folder / MANIFEST, manifest)
        settle(folder, {_HELD_OUT: manifest["files"][_HELD_OUT]["sha256"]})
    return num_lines


class RegistryVersions:
    """The registered versions of the model: bundle, users of the warm start, report."""

    name = "model_registry"

    def __init__(self, settings: Settings) -> None:
        self._registry = open_registry(settings)
        self.where = f"{self._registry.shown_uri}: model {settings.model_name}"

    def find(self, user: Subject) -> Sequence[Record]:
        """See `Place`."""
        found: list[Record] = []
        with one_line_errors(self._registry):
            for version in self._versions():
                for path, content in self._contents(version):
                    found += [
                        {
                            "registry_version": version.number,
                            "model_version": version.model_version,
                            "file": path,
                            **part,
                        }
                        for part in _parts_of(path, content, user.user_id)
                    ]
        return found

    def erase(self, user: Subject) -> int:
        """See `Place`. A version whose bundle is no artifact of its run cannot be changed: raises PartlyDone."""
        with one_line_errors(self._registry):
            versions = self._versions()
        database = sqlite_file(self._registry.uri)
        # Deletions of another data folder rewrite the same artifacts. A registry server has no lock.
        with folder_lock(database.parent) if database is not None and versions else nullcontext():
            return erased_from(versions, lambda version: self._erase_from(version, user.user_id))

    def _erase_from(self, version: RegisteredVersion, user_id: str) -> int:
        with one_line_errors(self._registry):
            contents = dict(self._contents(version))
            found = {path: len(list(_parts_of(path, content, user_id))) for path, content in contents.items()}
            is_of_run = self._is_of_run(version)
            for path in (path for path, number in found.items() if number and (is_of_run or path != _HELD_OUT_PATH)):
                contents[path] = self._replaced(version, path, contents[path], user_id)
            if is_of_run:
                self._renew_manifest(version, contents.get(_HELD_OUT_PATH), user_id)
            elif found.get(_HELD_OUT_PATH):
                error = RegistryError(
                    f"version {version.number} holds the user, and its bundle {version.source} is no artifact of the "
                    "run that registered it: delete the version"
                )
                raise PartlyDone([error], sum(found.values()) - found[_HELD_OUT_PATH])
        return sum(found.values())

    def _replaced(self, version: RegisteredVersion, path: str, content: bytes, user_id: str) -> bytes:
        """Replaces an artifact by one without the user; returns what the registry has then. Raises RegistryError."""
        for _ in range(_ATTEMPTS):
            self._registry.replace_artifact(version, path, _erased(path, content, user_id))
            found = self._registry.read_artifact(self._uris(version)[path])
            if found is None or not any(_parts_of(path, found, user_id)):
                return found or b""
            content = found  # another deletion had read the artifact before, and has replaced it since
        raise RegistryError(f"version {version.number}: {path}: another program replaces it; run the deletion again")

    def _is_of_run(self, version: RegisteredVersion) -> bool:
        folder = self._registry.artifact_folder(version)
        return folder is not None and version.source.rstrip("/") == f"{folder}/{names.BUNDLE_ARTIFACT_PATH}"

    def _renew_manifest(self, version: RegisteredVersion, held_out: bytes | None, user_id: str) -> None:
        """Writes the checksum of the held-out users, also where an earlier run was killed before it did."""
        raw = self._registry.read_artifact(f"{version.source}/{MANIFEST}")
        if held_out is None or raw is None:
            return
        manifest = _manifest(raw, f"version {version.number}")
        entry = _entry(_without(held_out, user_id))
        if manifest["files"].get(_HELD_OUT) != entry:
            manifest["files"][_HELD_OUT] = entry
            content = json.dumps(manifest, indent=2, sort_keys=True).encode()
            self._registry.replace_artifact(version, _MANIFEST_PATH, content)

    def _versions(self) -> list[RegisteredVersion]:
        return self._registry.versions() if self._registry.exists() and self._registry.has_model() else []

    def _contents(self, version: RegisteredVersion) -> Iterator[tuple[str, bytes]]:
        """(path, content) of the files of the version and of its run that may hold a user."""
        for path, uri in self._uris(version).items():
            content = self._registry.read_artifact(uri)
            if content is not None:
                yield path, content

    def _uris(self, version: RegisteredVersion) -> dict[str, str]:
        """Path -> URI of these files."""
        folder = self._registry.artifact_folder(version)
        uris = {_HELD_OUT_PATH: f"{version.source}/{_HELD_OUT}"}
        if folder is not None:
            uris |= {path: f"{folder}/{path}" for path in (_WEIGHTS_USERS, _REPORT, _CLEANING)}
        return uris


def _parts_of(path: str, content: bytes, user_id: str) -> Iterator[Record]:
    """What a file of a run holds of the user."""
    if path.endswith(_HELD_OUT):
        yield from _lines_of(content, user_id)
    elif path == _WEIGHTS_USERS:
        if parquet_rows.without_name(content, user_id) is not None:
            yield {names.USER_ID: user_id}
    elif path == _CLEANING:
        quoting = _quoting(user_id)
        yield from (
            {"bad_line": line.decode(errors="replace")} for line in content.splitlines() if quoting.search(line)
        )
    elif _heading(user_id) in content:
        yield {"example_user": user_id}


def _erased(path: str, content: bytes, user_id: str) -> bytes:
    if path.endswith(_HELD_OUT):
        return _without(content, user_id)
    if path == _WEIGHTS_USERS:
        return parquet_rows.without_name(content, user_id) or content
    if path == _CLEANING:
        return _quoting(user_id).sub(rb"\g<1>" + _NOBODY.encode(), content)
    return content.replace(_heading(user_id), _heading(_NOBODY))


def _quoting(user_id: str) -> re.Pattern[bytes]:
    """A line of the cleaning report that quotes a bad line in which the id stands as a word; up to the quotation, and
    the quotation (`trainer.data.report.BadLine.to_text`)."""
    return re.compile(rb"(?m)^(    (?:.*, )?line \d+: \w+: )(?=.*" + word_pattern(user_id).encode() + rb").*$")


def _heading(user_id: str) -> bytes:
    """How the report names an example user (`trainer/rendering/templates/report.html.j2`)."""
    escaped = html.escape(user_id).replace("&quot;", "&#34;").replace("&#x27;", "&#39;")  # as Jinja does
    return f"<h3>{escaped} <small>".encode()


def _lines_of(held_out: bytes, user_id: str) -> Iterator[Record]:
    return (record for line, record in _parsed(held_out) if record.get(names.USER_ID) == user_id)


def _without(held_out: bytes, user_id: str) -> bytes:
    return b"".join(line for line, record in _parsed(held_out) if record.get(names.USER_ID) != user_id)


def _parsed(held_out: bytes) -> Iterable[tuple[bytes, dict[str, Any]]]:
    for line in held_out.splitlines(keepends=True):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise StorageError(f"{_HELD_OUT}: a line is not JSON: {error}") from error
        yield line, record if isinstance(record, dict) else {}


def _entry(content: bytes) -> dict[str, Any]:
    return {"sha256": sha256(content).hexdigest(), "bytes": len(content)}


def _manifest(content: bytes, where: str) -> dict[str, Any]:
    try:
        manifest = json.loads(content)
        if not isinstance(manifest["files"], dict):
            raise TypeError("files is not an object")
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{where}: {MANIFEST} is unreadable: {error}") from error
    found: dict[str, Any] = manifest
    return found
