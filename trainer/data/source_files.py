"""The files that a configured path names: a file, a URL, a folder, a pattern, or a list of these."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tandem.contract.checksums import file_sha256
from trainer.core.errors import ConfigError, DataError, DownloadError
from trainer.data.config import is_url
from trainer.data.download import download

_NOT_DATA: Final = (".", "_")
"""Beginnings of the names of files that Spark and others write beside the data: `_SUCCESS`, `.part-0.csv.crc`."""
_PATTERN_CHARACTERS: Final = frozenset("*?[")


def source_files(
    paths: str | Sequence[str], *, sha256: str = "", folder: Path = Path(), downloads: Path
) -> tuple[Path, ...]:
    """Local paths of the files that `paths` names, those of a folder or pattern in the order of their names.

    URLs are downloaded into `downloads`; `sha256` is that of a single file. Raises DataError when there is no file,
    DownloadError when a download fails or the checksum differs, ConfigError when a file is named twice.
    """
    named = [paths] if isinstance(paths, str) else list(paths)
    found = [file for path in named for file in _files(path, sha256, folder, downloads)]
    if broken := next((file for file in found if len(str(file).splitlines()) > 1), None):
        raise DataError(f"{str(broken)!a}: a file whose name has several lines; rename it")
    # Spark writes an empty file for a part without rows.
    files = tuple(file for file in found if file.stat().st_size) or tuple(found[:1])
    if sha256 and len(files) > 1:
        raise ConfigError(f"sha256 is the checksum of one file, but {', '.join(named)} names {len(files)}")
    if repeated := next((file for index, file in enumerate(files) if file in files[:index]), None):
        raise ConfigError(f"{repeated}: named twice in {', '.join(named)}")
    if sha256 and not is_url(named[0]) and (actual := file_sha256(files[0])) != sha256:
        raise DownloadError(f"{files[0]}: has SHA-256 {actual}, the configuration says {sha256}")
    return files


def _files(path: str, sha256: str, folder: Path, downloads: Path) -> list[Path]:
    if is_url(path):
        return [download(path, downloads, sha256=sha256)]
    if "://" in path:
        raise DataError(f"{path}: neither a path of this machine nor an http(s) URL")
    local = folder / path
    if local.is_file():
        return [local]
    if local.is_dir():
        return _files_of_folder(local)
    if not _PATTERN_CHARACTERS & set(path):
        raise DataError(f"{local}: no such file")
    base = Path(local.anchor)
    found = sorted(file for file in base.glob(str(local.relative_to(base))) if file.is_file() and _is_data(file))
    if not found:
        raise DataError(f"{local}: no such file, and as a pattern it matches none")
    return found


def _files_of_folder(folder: Path) -> list[Path]:
    entries = sorted(entry for entry in folder.iterdir() if _is_data(entry))
    if inner := next((entry for entry in entries if entry.is_dir()), None):
        raise DataError(
            f"{folder}: holds the folder {inner.name!r}, and only files are read from a folder; "
            f'name the files with a pattern, for example "{folder.name}/**/*.csv"'
        )
    if not entries:
        raise DataError(f"{folder}: the folder holds no file")
    return entries


def _is_data(path: Path) -> bool:
    return not path.name.startswith(_NOT_DATA)
