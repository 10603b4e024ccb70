"""API keys of the callers. The file holds digests, so that reading it does not give anyone a key.

One line for each key, `name:digest`, the digest being the SHA-256 of the key as 64 hexadecimal digits; lines that begin
with # and empty lines are ignored. A name may have several lines, for a caller's old and new key. Why a plain SHA-256
and not a slow password hash: docs/decisions/0012.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from contextvars import ContextVar
from pathlib import Path
from typing import Final

from inference_server.core.errors import SettingsError, Unauthenticated
from inference_server.security.watched_files import WatchedFiles

MIN_KEY_CHARACTERS: Final = 16
"""Shorter keys could be guessed from their digests."""

_VARIABLE: Final = "TANDEM_API_KEYS_FILE"
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")

current_caller: ContextVar[str] = ContextVar("current_caller", default="")
"""Name of the key of the current request; empty when authentication is off."""


class ApiKeys:
    """The keys that are valid now. Made by `load`."""

    what = "api_keys"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files = WatchedFiles(path)
        self._keys = _read(path)
        self.num_refused = 0
        """Calls refused since the start."""

    @classmethod
    def load(cls, path: Path) -> ApiKeys:
        """Reads the file; with an empty file, every call is refused. Raises SettingsError that names the line."""
        return cls(path)

    def check(self, presented: str | None) -> str:
        """Returns the name of the presented key (None: the caller presented none).

        Raises Unauthenticated, with the same message for every cause.
        """
        digest = _digest(presented or "")
        name = None
        # Every key is compared, in constant time: the duration reveals nothing about the keys.
        for known_name, known_digest in self._keys:
            if hmac.compare_digest(digest, known_digest):
                name = known_name
        if name is None or not presented:
            self.num_refused += 1
            raise Unauthenticated("missing or wrong credentials")
        return name

    def reload_if_changed(self) -> bool:
        """See `Reloadable`."""
        if not self._files.changed():
            return False
        self._keys = _read(self._path)
        return True


def key_line(name: str, key: str) -> str:
    """The file's line for a key. Raises ValueError if the name or the key cannot be used."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"a name is 1 to 64 letters, digits, dots, dashes and underscores, not {name!r}")
    if len(key) < MIN_KEY_CHARACTERS:
        raise ValueError(f"a key has at least {MIN_KEY_CHARACTERS} characters")
    if key != key.strip() or not key.isascii() or not key.isprintable():
        raise ValueError("a key is printable ASCII without spaces around it, as a header can carry it")
    return f"{name}:{_digest(key).hex()}"


def generate_key() -> str:
    """A new key of 256 random bits."""
    return secrets.token_urlsafe(32)


def _digest(key: str) -> bytes:
    # A header may hold any bytes; a value that is not text must count as a wrong key, not raise an exception.
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def _read(path: Path) -> tuple[tuple[str, bytes], ...]:
    """Names and digests. Raises SettingsError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise SettingsError(f"{_VARIABLE}: {path}: {reason}") from error
    keys: dict[bytes, str] = {}
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line or line.startswith("#"):
            continue
        name, _, digest = line.partition(":")
        # The message does not quote the line: it may hold the key itself.
        if not _NAME.fullmatch(name) or not _DIGEST.fullmatch(digest):
            raise SettingsError(
                f"{_VARIABLE}: {path}: line {number} is not name:sha256 in lower-case hexadecimal digits"
            )
        if bytes.fromhex(digest) in keys:
            raise SettingsError(f"{_VARIABLE}: {path}: line {number} repeats the key of {keys[bytes.fromhex(digest)]}")
        keys[bytes.fromhex(digest)] = name
    return tuple((name, digest) for digest, name in keys.items())
