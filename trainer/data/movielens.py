"""MovieLens-100K: GroupLens forbids redistribution, so it is taken from the package `recbole`, which contains it.

Only the wheel is downloaded; it is neither installed nor run.
"""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import ibis

from tandem.contract import names
from tandem.contract.checksums import file_sha256
from tandem.ops.file_lock import file_lock
from trainer.core.errors import DownloadError
from trainer.data import text
from trainer.data.config import MovieLens100KConfig, TableConfig
from trainer.data.duckdb_engine import DuckDBEngine
from trainer.data.raw import RawData
from trainer.data.table import read_table

_REQUIREMENT: Final = "recbole==1.2.1"
_FOLDER_IN_WHEEL: Final = "recbole/dataset_example/ml-100k"
_INTERACTIONS: Final = "ml-100k.inter"
_ITEMS: Final = "ml-100k.item"
_USERS: Final = "ml-100k.user"
_SHA256: Final = {
    _INTERACTIONS: "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
    _ITEMS: "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
    _USERS: "4f670007d9cfbeb9807e757209af1555b9bcc186bde25e767f67cb67c6dd5972",
}
_RELEASE_YEAR: Final = "release_year"
_TIMEOUT_SECONDS: Final = 300


def fetch_movielens_100k(cache_dir: Path, *, requirement: str = _REQUIREMENT) -> dict[str, Path]:
    """The three files, by section of the table. They are downloaded with pip once, and then taken from `cache_dir`.

    Raises DownloadError when pip fails or a file's checksum is wrong.
    """
    folder = cache_dir / "ml-100k"
    if not _is_complete(folder):
        cache_dir.mkdir(parents=True, exist_ok=True)
        with file_lock(cache_dir / ".ml-100k.lock"):
            if not _is_complete(folder):
                _fetch_wheel(requirement, folder)
    return {"interactions": folder / _INTERACTIONS, "items": folder / _ITEMS, "users": folder / _USERS}


def _fetch_wheel(requirement: str, folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=".ml-100k-", dir=folder.parent) as staging:
        _unpack(_download_wheel(requirement, Path(staging)), Path(staging) / "files")
        shutil.rmtree(folder, ignore_errors=True)
        (Path(staging) / "files").rename(folder)


def read_movielens_100k(
    engine: DuckDBEngine, config: MovieLens100KConfig, files: Mapping[str, Sequence[Path]]
) -> RawData:
    """Reads the files that `fetch_movielens_100k` returns. Raises DataError when a file is unreadable."""
    raw = read_table(engine, _as_table(config), files)
    assert raw.items is not None
    # One title in the package still ends in its year, and two release years are not years.
    rows = raw.items.rows
    title = rows[names.TITLE]
    year = ibis.cases(
        (title.re_search(r" \([0-9]{4}\)$"), title.re_extract(r" \(([0-9]{4})\)$", 1)),
        (rows[names.ATTRIBUTES][_RELEASE_YEAR].re_search(r"^[0-9]{4}$"), rows[names.ATTRIBUTES][_RELEASE_YEAR]),
    )
    rows = rows.mutate(
        title.re_replace(r" \([0-9]{4}\)$", "").name(names.TITLE),
        text.string_map({_RELEASE_YEAR: year}).name(names.ATTRIBUTES),
    )
    return dataclasses.replace(raw, items=dataclasses.replace(raw.items, rows=rows))


def _as_table(config: MovieLens100KConfig) -> TableConfig:
    """The data set as a plain table: tab-separated, with the type of each column in its header."""
    common = {"delimiter": "\t", "quote": "", "file_format": "csv"}
    return TableConfig.model_validate(
        {
            **config.model_dump(),
            "format": "table",
            "interactions": {
                **common,
                "path": _INTERACTIONS,
                "user": "user_id:token",
                "item": "item_id:token",
                "rating": "rating:float",
                "timestamp": "timestamp:float",
            },
            "items": {
                **common,
                "path": _ITEMS,
                "id": "item_id:token",
                "title": "movie_title:token_seq",
                "categories": "class:token_seq",
                "categories_separator": " ",
                "attributes": {_RELEASE_YEAR: "release_year:token"},
            },
            "users": {
                **common,
                "path": _USERS,
                "id": "user_id:token",
                "features": {"age": "age:token", "gender": "gender:token", "occupation": "occupation:token"},
            },
        }
    )


def _is_complete(folder: Path) -> bool:
    return all(
        (folder / name).is_file() and file_sha256(folder / name) == expected for name, expected in _SHA256.items()
    )


def _download_wheel(requirement: str, directory: Path) -> Path:
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--disable-pip-version-check",
    ]
    command += ["--quiet", "--no-input", "--dest", str(directory), requirement]
    try:
        finished = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise DownloadError(f"pip download {requirement} took more than {_TIMEOUT_SECONDS} s") from error
    if finished.returncode:
        last_lines = " / ".join(finished.stderr.strip().splitlines()[-2:])
        raise DownloadError(f"pip download {requirement} failed (it contains MovieLens-100K): {last_lines}")
    return next(directory.glob("*.whl"))


def _unpack(wheel: Path, directory: Path) -> None:
    directory.mkdir()
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name in _SHA256:
                (directory / name).write_bytes(archive.read(f"{_FOLDER_IN_WHEEL}/{name}"))
    except (zipfile.BadZipFile, KeyError) as error:
        raise DownloadError(f"{wheel.name}: does not hold MovieLens-100K: {error}") from error
    for name, expected in _SHA256.items():
        if (actual := file_sha256(directory / name)) != expected:
            raise DownloadError(f"{wheel.name}: {name} has SHA-256 {actual}, expected {expected}")
