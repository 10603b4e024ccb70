"""Downloads http(s) files: resumed after a broken connection, verified, and visible under their name once complete.

A transfer is resumed (Range) only if the server gave the version of the file (ETag or Last-Modified), and only on the
condition (If-Range) that the file still has this version: parts of two versions are never joined.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import httpx
from tqdm import tqdm

from tandem.contract.checksums import file_sha256
from tandem.ops.file_lock import file_lock
from trainer.core.errors import DownloadError

_ATTEMPTS: Final = 5
_RETRY_WAIT_SECONDS: Final = 0.5
"""Wait before the second attempt; doubled for each further attempt."""
_TIMEOUT: Final = httpx.Timeout(30.0)
_RETRIED_STATUS: Final = frozenset({408, 416, 425, 429, 500, 502, 503, 504})


class _Interrupted(Exception):
    """This attempt failed, but the next attempt may succeed."""


@dataclass(frozen=True)
class _Version:
    """Version of the file that a partial download belongs to, and its length in bytes (0: unknown)."""

    validator: str = ""
    total_bytes: int = 0


def download(url: str, directory: Path, *, sha256: str = "", retry_wait_seconds: float = _RETRY_WAIT_SECONDS) -> Path:
    """Downloads a file into a folder, with a progress bar on stderr, and returns its path.

    If the file exists already and has the given checksum, if any, it is not downloaded again and no network is needed.
    An unfinished download of an earlier call is resumed. Of processes that call this at once, one downloads.

    Raises DownloadError when the server refuses, all attempts fail, or the checksum differs.
    """
    directory.mkdir(parents=True, exist_ok=True)
    target = (
        directory
        / f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{Path(unquote(urlsplit(url).path)).name or 'file'}"
    )
    if target.exists() and (not sha256 or file_sha256(target) == sha256):
        return target
    with file_lock(target.with_name(f"{target.name}.lock")):
        if not target.exists() or (sha256 and file_sha256(target) != sha256):  # or another process has just fetched it
            _fetch(url, target, sha256, retry_wait_seconds)
    return target


def _fetch(url: str, target: Path, sha256: str, retry_wait_seconds: float) -> None:
    part, version_file = target.with_name(f"{target.name}.part"), target.with_name(f"{target.name}.part.json")
    problem = ""
    with httpx.Client(follow_redirects=True, timeout=_TIMEOUT) as client:
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(retry_wait_seconds * 2 ** (attempt - 1))
            try:
                _attempt(client, url, part, version_file)
                break
            except (httpx.TransportError, _Interrupted) as error:
                problem = str(error) or type(error).__name__
            except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.TooManyRedirects) as error:
                raise DownloadError(f"{url}: {error}") from error
        else:
            raise DownloadError(f"{url}: given up after {_ATTEMPTS} attempts: {problem}")
    version_file.unlink(missing_ok=True)
    if sha256 and (actual := file_sha256(part)) != sha256:
        part.unlink()
        raise DownloadError(f"{url}: has SHA-256 {actual}, the configuration says {sha256}")
    part.replace(target)


def _attempt(client: httpx.Client, url: str, part: Path, version_file: Path) -> None:
    """Makes one request. `part` is complete afterwards, or the function raises."""
    known = _read_version(version_file)
    have_bytes = part.stat().st_size if known.validator and part.exists() else 0
    headers = {"Accept-Encoding": "identity"}  # no compression in transit, so lengths count bytes of the file
    if have_bytes:
        headers |= {"Range": f"bytes={have_bytes}-", "If-Range": known.validator}
    with client.stream("GET", url, headers=headers) as response:
        if response.status_code in _RETRIED_STATUS:
            version_file.unlink(missing_ok=True)  # 416: the part is longer than the present file; start again
            raise _Interrupted(f"HTTP {response.status_code} {response.reason_phrase}")
        if response.status_code not in {200, 206}:
            raise DownloadError(f"{url}: HTTP {response.status_code} {response.reason_phrase}")
        if response.status_code == 206:
            version = _continued_version(response, known, have_bytes)
        else:
            have_bytes, version = 0, _version_of(response)
            version_file.write_text(json.dumps(asdict(version)))
        with (
            part.open("ab" if have_bytes else "wb") as sink,
            tqdm(
                total=version.total_bytes or None, initial=have_bytes, unit="B", unit_scale=True, desc=_label(url)
            ) as bar,
        ):
            # Chunks are written as they arrive: a buffer of several chunks would be lost when the connection breaks.
            for chunk in response.iter_raw():
                sink.write(chunk)
                bar.update(len(chunk))
    size = part.stat().st_size
    if version.total_bytes and size != version.total_bytes:
        raise _Interrupted(f"received {size} of {version.total_bytes} bytes")


def _continued_version(response: httpx.Response, known: _Version, have_bytes: int) -> _Version:
    """Checks that a 206 response starts at the end of the part."""
    byte_range, _, total = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
    if (
        not have_bytes
        or byte_range.partition("-")[0] != str(have_bytes)
        or (total.isdigit() and int(total) != known.total_bytes)
    ):
        raise DownloadError(
            f"{response.url}: requested bytes from {have_bytes} on, the server sent {byte_range}/{total}"
        )
    return known


def _version_of(response: httpx.Response) -> _Version:
    """The version of the file in a 200 response. A weak ETag does not guarantee equal bytes, so it is not used."""
    etag = response.headers.get("ETag", "")
    validator = response.headers.get("Last-Modified", "") if etag.startswith("W/") or not etag else etag
    return _Version(validator, int(response.headers.get("Content-Length", "0")))


def _read_version(path: Path) -> _Version:
    try:
        return _Version(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return _Version()  # absent, or truncated by a crash: the transfer starts again


def _label(url: str) -> str:
    return Path(unquote(urlsplit(url).path)).name or url
