"""The places that are files of the data folder: the archive, prepared data, and the impression log."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from feature_sync.archive.day_files import all_files, replace_file, writing
from feature_sync.archive.tables import rows_of_user as archived_rows
from feature_sync.archive.tables import write_without_user as write_archived
from feature_sync.attribution.question import EVENTS_FILE, USERS
from feature_sync.core.errors import PreparedDataError
from feature_sync.personal_data import parquet_rows
from feature_sync.personal_data.place import Record, Subject, erased_from, word_pattern
from feature_sync.personal_data.replaced_files import replace_list, settle, staged_path
from tandem.contract import names
from tandem.contract.checksums import file_sha256
from tandem.contract.streams import EVENTS
from tandem.ops.file_lock import file_lock

PREPARED: Final = "prepared"
_ABOUT: Final = "prepared.json"
_SPLITS: Final = "splits"
_INTERACTIONS: Final = "interactions.parquet"
_USERS: Final = "users.parquet"


class Archive:
    """Archived entries of EVENTS or IMPRESSIONS. A running archiver adds files meanwhile, and does not add the user's
    entries any more."""

    def __init__(self, folder: Path, stream: str) -> None:
        self.name = "archive" if stream == EVENTS else "impression_archive"
        self.where = str(folder)
        self._folder = folder
        self._stream = stream

    def find(self, user: Subject) -> Sequence[Record]:
        """See `Place`."""
        return [
            {"file": f"{path.parent.name}/{path.name}", **row}
            for path in all_files(self._folder)
            for row in archived_rows(path, user.user_id, until=user.until, stream=self._stream)
        ]

    def erase(self, user: Subject) -> int:
        """See `Place`. A file is replaced at once; its name, which is the archive's position, stays."""
        if not self._folder.is_dir():
            return 0
        # A file that is being written does not know of the deletion yet; all later ones do.
        with writing(self._folder):
            files = all_files(self._folder)
        return erased_from(files, lambda path: _erase_from_archived(path, user, self._stream))


def _erase_from_archived(path: Path, user: Subject, stream: str) -> int:
    rows = archived_rows(path, user.user_id, until=user.until, stream=stream)
    if rows:
        write = partial(write_archived, path, user_id=user.user_id, until=user.until, stream=stream)
        replace_file(path, write)
    return len(rows)


class AttributionReport:
    """The rows of the user in the newest report of attribution; its page and its JSON name nobody."""

    name = "attribution"

    def __init__(self, folder: Path) -> None:
        self.where = str(folder)
        self._folder = folder

    def find(self, user: Subject) -> Sequence[Record]:
        """See `Place`."""
        return parquet_rows.records_of_user(self._folder, self._files(), user.user_id)

    def erase(self, user: Subject) -> int:
        """See `Place`. Files are replaced one by one."""
        return erased_from(self._files(), lambda path: parquet_rows.erase_user(path, user.user_id))

    def _files(self) -> list[Path]:
        paths = [self._folder / EVENTS_FILE, *sorted((self._folder / USERS).glob("*.parquet"))]
        return [path for path in paths if path.is_file()]


class PreparedFolders:
    """The folders of prepared data, with their splits."""

    name = "prepared_data"

    def __init__(self, folder: Path) -> None:
        self.where = str(folder)
        self._folder = folder

    def find(self, user: Subject) -> Sequence[Record]:
        """See `Place`."""
        return [record for folder in self._folders() for record in _rows_in(folder, user.user_id)]

    def erase(self, user: Subject) -> int:
        """See `Place`. A folder keeps its name, and gets new checksums and a new fingerprint."""
        return erased_from(self._folders(), lambda folder: _erase_from_prepared(folder, user.user_id))

    def _folders(self) -> list[Path]:
        return sorted(path.parent for path in self._folder.glob(f"[!.]*/{_ABOUT}"))


def _rows_in(folder: Path, user_id: str) -> Iterator[Record]:
    yield from parquet_rows.records_of_user(folder.parent, _files_of_users(folder), user_id)
    for quote in _quotes(_about(folder), user_id):
        yield {"file": f"{folder.name}/{_ABOUT}", "quoted": quote["text"]}


def _erase_from_prepared(folder: Path, user_id: str) -> int:
    # The trainer, which would take a folder in between for a damaged one, waits.
    with file_lock(folder.with_name(f".{folder.name}.lock")):
        settle(folder, _checksums(_about(folder)))
        return _rewrite(folder, user_id)


def _rewrite(folder: Path, user_id: str) -> int:
    about = _about(folder)
    rows = {path: parquet_rows.rows_of_user(path, user_id) for path in _files_of_users(folder)}
    quotes = _quotes(about, user_id)
    num_removed = sum(map(len, rows.values())) + len(quotes)
    if not num_removed:
        return 0
    if any(found for path, found in rows.items() if path.parent != folder):
        shutil.rmtree(folder / _SPLITS)  # made again by `trainer prepare --split`, with fingerprints of their own
    changed = [path for path, found in rows.items() if found and path.parent == folder]
    for path in changed:
        parquet_rows.write_without_user(path, staged_path(path), user_id)
        about.setdefault("files", {})[path.name] = file_sha256(staged_path(path))
    if changed:
        about["fingerprint"] = hashlib.sha256("".join(_checksums(about).values()).encode()).hexdigest()
    for key, name in (("num_interactions", _INTERACTIONS), ("num_users", _USERS)):
        if key in about:
            about[key] -= len(rows.get(folder / name, ()))
    for quote in quotes:
        quote["text"] = "(of a deleted user)"
    replace_list(folder / _ABOUT, about)
    settle(folder, _checksums(about))
    return num_removed


def _files_of_users(folder: Path) -> list[Path]:
    paths = [*sorted(folder.glob("*.parquet")), *sorted(folder.glob(f"{_SPLITS}/*.parquet"))]
    return [path for path in paths if parquet_rows.has_users(path)]


def _about(folder: Path) -> dict[str, Any]:
    try:
        about = json.loads((folder / _ABOUT).read_text())
        if not isinstance(about, dict) or not isinstance(about.get("files", {}), dict):
            raise ValueError("not an object with the files' checksums")
    except ValueError as error:
        raise PreparedDataError(f"{folder / _ABOUT}: not a description of prepared data: {error}") from error
    return about


def _checksums(about: dict[str, Any]) -> dict[str, str]:
    return {str(name): str(checksum) for name, checksum in about.get("files", {}).items()}


def _quotes(about: dict[str, Any], user_id: str) -> list[dict[str, Any]]:
    """The parts of the cleaning report that quote the user: bad lines of the source in which the id stands as a word,
    and findings in which it stands in quotation marks."""
    word = re.compile(word_pattern(user_id))
    lines = (line for file in about.get("report", {}).get("files", ()) for line in file.get("bad_lines", ()))
    return [
        *(line for line in lines if word.search(str(line.get("text", "")))),
        *(finding for finding in about.get("findings", ()) if repr(user_id) in str(finding.get("text", ""))),
    ]


class ImpressionLogs:
    """The server's impression logs: those of all workers, with the rotated ones.

    A line is overwritten in its place, with spaces after an empty object: the server, which has the file open, only
    appends, and rotation only renames.
    """

    name = "impression_log"

    def __init__(self, path: Path) -> None:
        self.where = str(path)
        self._path = path

    def find(self, user: Subject) -> Sequence[Record]:
        """See `Place`."""
        return [
            {"file": path.name, **json.loads(line)}
            for path in self._files()
            for _, line in _lines_of_user(path, user.user_id)
        ]

    def erase(self, user: Subject) -> int:
        """See `Place`. Opens the files of the server that runs, which must be on this machine."""
        return erased_from(self._files(), lambda path: _overwrite(path, user.user_id))

    def _files(self) -> list[Path]:
        name = re.compile(rf"{re.escape(self._path.name)}(\.worker-\d+)?(\.\d+)?")
        folder = self._path.parent
        return sorted(path for path in folder.iterdir() if name.fullmatch(path.name)) if folder.is_dir() else []


def _overwrite(path: Path, user_id: str) -> int:
    found = list(_lines_of_user(path, user_id))
    if found:
        handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            for offset, line in found:
                os.pwrite(handle, b"{}".ljust(len(line)), offset)
            os.fsync(handle)
        finally:
            os.close(handle)
    return len(found)


def _lines_of_user(path: Path, user_id: str) -> Iterator[tuple[int, bytes]]:
    """(offset, line without its newline) of the user's lines."""
    offset = 0
    with path.open("rb") as source:
        for line in source:
            try:
                shown = json.loads(line)
            except ValueError:  # a line that is being written
                shown = None
            if isinstance(shown, dict) and shown.get(names.USER_ID) == user_id:
                yield offset, line.rstrip(b"\n")
            offset += len(line)
