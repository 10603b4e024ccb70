"""API keys of the callers. The file holds digests, so that reading it does not give anyone a key.

One line for each key; lines that begin with # and empty lines are ignored:

    name:sha256[:rights] [users=PREFIX] [concurrent=N] [rate=N]

`sha256` is that of the key, 64 lower-case hexadecimal digits; `rights` are some of `callers.Right` with commas between
them, and all of them where the line has none. A name may have several lines, for a caller's old and new key. Why a
plain SHA-256 and not a slow password hash: docs/decisions/0012; why rights and limits: docs/decisions/0068.

While the server runs, a key that the file does not name is not valid, whatever else is wrong with the file: lines that
cannot be read are left out. Only a file that cannot be read at all leaves the keys in place, and only for
GRACE_SECONDS, because files are at times removed and written again.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from inference_server.core.errors import SettingsError, Unauthenticated
from inference_server.security.callers import ALL_RIGHTS, Caller, Right, Usage
from tandem.contract.whole_files import read_whole
from tandem.ops.watched_files import WatchedFiles

MIN_KEY_CHARACTERS: Final = 16
"""Shorter keys could be guessed from their digests."""
GRACE_SECONDS: Final = 30.0
"""Time for which the keys stay valid while their file cannot be read."""
MAX_COUNTED_CALLERS: Final = 100
"""Callers whose calls are counted under their names; the rest are counted together."""
OTHER_CALLERS: Final = "other"

_VARIABLE: Final = "TANDEM_API_KEYS_FILE"
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_LINE: Final = "name:sha256[:rights] [users=PREFIX] [concurrent=N] [rate=N]"
_SHOWN_LINES: Final = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class CallerLimits:
    """Limits of the callers whose lines name none; 0: no limit."""

    max_concurrent: int = 0
    max_rate: float = 0.0


@dataclass(frozen=True, slots=True)
class _File:
    """What a file of keys says."""

    callers: Mapping[bytes, Caller]
    """By the digest of the key."""
    problems: Sequence[str] = field(default_factory=tuple)
    """The lines that cannot be read: their numbers and why, never what they hold."""


class ApiKeys:
    """The keys that are valid now. Made by `load`."""

    what = "api_keys"

    def __init__(self, path: Path, *, limits: CallerLimits, strict: bool, grace_seconds: float) -> None:
        self._path = path
        self._limits = limits
        self._grace_seconds = grace_seconds
        self._files = WatchedFiles(path)
        self._usage: dict[str, Usage] = {}
        self._callers: Sequence[tuple[bytes, Caller]] = ()
        self._unreadable_since: float | None = None
        self.num_refused = 0
        """Calls refused since the start because their keys are not valid."""
        self._problem_at_start: SettingsError | None = None
        try:
            found = _read(path, limits, strict=strict)
        except _Unusable as error:
            if strict:
                raise
            self._problem_at_start = error
        else:
            self._use(found)
            if found.problems:
                self._problem_at_start = SettingsError(_listed(path, found.problems))

    @classmethod
    def load(
        cls,
        path: Path,
        *,
        limits: CallerLimits | None = None,
        strict: bool = True,
        grace_seconds: float = GRACE_SECONDS,
    ) -> ApiKeys:
        """Reads the file; with an empty file, every call is refused.

        Raises SettingsError, which names the first line that cannot be read. Not `strict`, such lines are left out, and
        without a readable file no key is valid: a worker that starts again must not fail because a file is edited.
        """
        return cls(path, limits=limits or CallerLimits(), strict=strict, grace_seconds=grace_seconds)

    def check(self, presented: str | None) -> Caller:
        """The holder of the presented key (None: the caller presented none).

        Raises Unauthenticated, with the same message for every cause.
        """
        digest = _digest(presented or "")
        caller = None
        # Every key is compared, in constant time: the duration reveals nothing about the keys.
        for known_digest, known in self._callers:
            if hmac.compare_digest(digest, known_digest):
                caller = known
        if caller is None or not presented:
            self.num_refused += 1
            raise Unauthenticated("missing or wrong credentials")
        return caller

    def usage_by_caller(self) -> dict[str, tuple[int, int]]:
        """Calls and refusals since the start, by the name of the caller."""
        counted: dict[str, tuple[int, int]] = {}
        for number, (name, usage) in enumerate(self._usage.items()):
            label = name if number < MAX_COUNTED_CALLERS else OTHER_CALLERS
            calls, refused = counted.get(label, (0, 0))
            counted[label] = (calls + usage.num_calls, refused + usage.num_refused)
        return counted

    def reload_if_changed(self) -> bool:
        """See `Reloadable`. A file with lines that cannot be read is in use nevertheless, without these lines."""
        if (problem := self._problem_at_start) is not None:
            self._problem_at_start = None
            raise problem
        if not self._files.changed():
            self._end_grace()
            return False
        try:
            found = _read(self._path, self._limits, strict=False)
        except _Unusable as error:
            if self._unreadable_since is None:
                self._unreadable_since = time.monotonic()
            raise SettingsError(f"{error}; its keys stay valid for {self._grace_seconds:g} s") from error
        self._use(found)
        if found.problems:
            raise SettingsError(f"{_listed(self._path, found.problems)}; the keys of the other lines are valid")
        return True

    def _use(self, found: _File) -> None:
        self._unreadable_since = None
        self._callers = tuple(
            (digest, _with_usage(caller, self._usage.setdefault(caller.name, caller.usage)))
            for digest, caller in found.callers.items()
        )

    def _end_grace(self) -> None:
        """Raises SettingsError once, when the file could not be read for too long: no key is valid from now on."""
        since = self._unreadable_since
        if since is None or not self._callers or time.monotonic() - since < self._grace_seconds:
            return
        self._callers = ()
        raise SettingsError(
            f"{_VARIABLE}: {self._path}: cannot be read for {self._grace_seconds:g} s; no key is valid until it can"
        )


class _Unusable(SettingsError):
    """A file that cannot be read at all, or at the start not as a whole."""


def key_line(
    name: str,
    key: str,
    *,
    rights: Sequence[Right] = (),
    user_prefix: str = "",
    max_concurrent: int = 0,
    max_rate: float = 0.0,
) -> str:
    """The file's line for a key. Raises ValueError if an argument cannot be used."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"a name is 1 to 64 letters, digits, dots, dashes and underscores, not {name!r}")
    if len(key) < MIN_KEY_CHARACTERS:
        raise ValueError(f"a key has at least {MIN_KEY_CHARACTERS} characters")
    if key != key.strip() or not key.isascii() or not key.isprintable():
        raise ValueError("a key is printable ASCII without spaces around it, as a header can carry it")
    options = {"users": user_prefix, "concurrent": max_concurrent, "rate": f"{max_rate:g}" if max_rate else ""}
    line = f"{name}:{_digest(key).hex()}{':' if rights else ''}{','.join(rights)}"
    line = " ".join([line, *(f"{option}={value}" for option, value in options.items() if value)])
    _parsed(line, CallerLimits())
    return line


def rights_of(text: str) -> list[Right]:
    """Rights with commas between them. Raises ValueError, which names the rights that there are."""
    named = text.split(",")
    if not set(named) <= ALL_RIGHTS:
        raise ValueError(f"names a right that is none of {', '.join(Right)}")
    return [Right(name) for name in named]


def generate_key() -> str:
    """A new key of 256 random bits."""
    return secrets.token_urlsafe(32)


def _digest(key: str) -> bytes:
    # A header may hold any bytes; a value that is not text must count as a wrong key, not raise an exception.
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def _with_usage(caller: Caller, usage: Usage) -> Caller:
    """The caller with the counts of its name, which outlive a reload of the file."""
    return Caller(
        name=caller.name,
        rights=caller.rights,
        user_prefix=caller.user_prefix,
        max_concurrent=caller.max_concurrent,
        max_rate=caller.max_rate,
        usage=usage,
    )


def _read(path: Path, limits: CallerLimits, *, strict: bool) -> _File:
    """Raises _Unusable if the file cannot be read; `strict`, also if a line cannot."""
    try:
        lines = read_whole(path).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise _Unusable(f"{_VARIABLE}: {path}: {reason}") from error
    callers: dict[bytes, Caller] = {}
    problems: list[str] = []
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line or line.startswith("#"):
            continue
        # No message quotes a line: it may hold the key itself.
        try:
            digest, caller = _parsed(line, limits)
            if digest in callers:
                raise ValueError(f"repeats the key of {callers[digest].name}")
        except ValueError as error:
            problems.append(f"line {number} {error}")
        else:
            callers[digest] = caller
    if problems and strict:
        raise _Unusable(f"{_VARIABLE}: {path}: {problems[0]}")
    return _File(callers, tuple(problems))


def _parsed(line: str, limits: CallerLimits) -> tuple[bytes, Caller]:
    """Digest and caller of a line. Raises ValueError, which says what is wrong and quotes nothing."""
    key, *options = line.split()
    name, digest, *rights = [*key.split(":"), ""] if ":" not in key else key.split(":")
    if not _NAME.fullmatch(name) or not _DIGEST.fullmatch(digest) or len(rights) > 1:
        raise ValueError(f"is not {_LINE}, with the digest in lower-case hexadecimal digits")
    found = dict(option.partition("=")[::2] for option in options)
    if len(found) < len(options) or not found.keys() <= {"users", "concurrent", "rate"} or "" in found.values():
        raise ValueError(f"is not {_LINE}")
    return bytes.fromhex(digest), Caller(
        name=name,
        rights=frozenset(rights_of(rights[0])) if rights else ALL_RIGHTS,
        user_prefix=found.get("users", ""),
        max_concurrent=int(_number(found, "concurrent", limits.max_concurrent)),
        max_rate=_number(found, "rate", limits.max_rate),
    )


def _number(options: Mapping[str, str], name: str, default: float) -> float:
    if name not in options:
        return default
    text = options[name]
    if not re.fullmatch(r"\d{1,9}(\.\d{1,3})?" if name == "rate" else r"\d{1,9}", text) or not float(text):
        raise ValueError(f"has a {name} that is not a number above 0")
    return float(text)


def _listed(path: Path, problems: Sequence[str]) -> str:
    more = f" and {len(problems) - _SHOWN_LINES} lines more" if len(problems) > _SHOWN_LINES else ""
    return f"{_VARIABLE}: {path}: {'; '.join(problems[:_SHOWN_LINES])}{more}"
