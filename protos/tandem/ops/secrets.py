"""Passwords and tokens of the settings, kept out of logs and messages.

A URL is shown by `without_password`. Every program passes what it logs and prints through `redacted`, because messages
of libraries quote URLs too. `guard_messages`, called first, tells it the secrets of this process, which a library may
quote alone, and covers exceptions that end the process or a thread. Tracebacks never show local variables: settings,
users' ids and events are among them.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import sys
import threading
import traceback
from collections.abc import Iterable, Mapping, MutableMapping
from types import TracebackType
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

MASK: Final = "***"

_MIN_LENGTH: Final = 6
"""A shorter secret is masked only where it is recognised by its place: as a word of its own it would be masked in every
line that happens to hold these letters."""

_URL: Final = re.compile(r"""[A-Za-z][A-Za-z0-9+.-]*://[^\s"'<>\\]+""")
_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^:@]+)(:\d*)?")
"""A host, and its port."""
_ASSIGNMENT: Final = re.compile(r"(?i)((?:passw|secret)[\w.-]*(?:['\"]?\s*=\s*|['\"]\s*:\s*)['\"]?)([^\s'\",;&)}]+)")
_SECRET_OPTION: Final = re.compile(r"(?i)pass|secret|token|credential|api.?key|key.pem")
_SECRET_VARIABLE: Final = re.compile(r"(?i)passw|secret|token|credential|(access|api)_key|otlp(_\w+)?_headers")
_FILE_VARIABLE: Final = re.compile(r"(?i)_(file|path|dir)$|^TOKENIZERS_")

_secrets: set[str] = set()


def without_password(url: str) -> str:
    """A URL for logs and messages: without user and password, and with the values of its options masked.

    Where a character that a password must not hold unescaped makes it unclear which part is the password, more is
    masked.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return MASK if "@" in url else url
    authority, mark, after = _split(rest)
    path, question, options = after.partition("?") if mark == "/" else ("", mark, after)
    shown = authority.rpartition("@")[2]
    if authority and not all(_HOST.fullmatch(host) for host in shown.split(",")):
        return f"{scheme}://{MASK}"
    if authority and "@" in path:
        path = f"{MASK}{path.rpartition('@')[2]}"
    if mark == "/":
        shown += f"/{path}"
    return f"{scheme}://{shown}{question}{_masked_options(options)}"


def remember_secrets(environment: Mapping[str, str] = os.environ) -> None:
    """Makes `redacted` mask the secrets of these variables: those that a name says to hold one (MLFLOW_TRACKING_TOKEN,
    AWS_SECRET_ACCESS_KEY), and the passwords in URLs."""
    for name, value in environment.items():
        if _SECRET_VARIABLE.search(name) and not _FILE_VARIABLE.search(name):
            _remember([value, *(part.partition("=")[2] for part in value.split(","))])
        if "://" in value:
            _remember(_secrets_of(value))


def guard_messages() -> None:
    """Remembers the secrets of this process's environment, and redacts the tracebacks of exceptions that nobody
    handles."""
    remember_secrets()
    sys.excepthook = _print_redacted
    threading.excepthook = lambda failed: _print_redacted(failed.exc_type, failed.exc_value, failed.exc_traceback)


def redacted(text: str) -> str:
    """The text without passwords: in URLs, in assignments such as `password=...`, and those of this process."""
    for secret in sorted(_secrets, key=len, reverse=True):
        if secret in text:
            text = text.replace(secret, MASK)
    if "://" in text:
        text = _URL.sub(_shown_url, text)
    return _ASSIGNMENT.sub(rf"\1{MASK}", text)


def user_digest(user_id: str) -> str:
    """The user's pseudonym in the logs: `printf %s USER_ID | sha256sum | cut -c1-16`. Empty: an anonymous visitor."""
    return hashlib.sha256(user_id.encode("utf-8", "surrogatepass")).hexdigest()[:16] if user_id else ""


class RedactingFormatter(logging.Formatter):
    """The standard library's formatter, with redacted lines."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, with its traceback."""
        return redacted(super().format(record))


def redact_event(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A processor of structlog that redacts every value of a log line. It stands before the renderer."""
    for name, value in event.items():
        event[name] = _redacted_value(value)
    return event


def _print_redacted(kind: type[BaseException], error: BaseException | None, frames: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt | SystemExit):
        return
    sys.stderr.write(redacted("".join(traceback.format_exception(kind, error, frames))))


def _redacted_value(value: object) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, Mapping):
        return {redacted(str(name)): _redacted_value(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_redacted_value(entry) for entry in value]
    return redacted(str(value) if isinstance(value, BaseException | os.PathLike) else repr(value))


def _split(rest: str) -> tuple[str, str, str]:
    """What stands before the first "/", "?" or "#", that character, and what follows."""
    end = next((number for number, character in enumerate(rest) if character in "/?#"), len(rest))
    return rest[:end], rest[end : end + 1], rest[end + 1 :]


def _masked_options(options: str) -> str:
    if not options:
        return ""
    names = [option.partition("=")[0] if "=" in option else MASK for option in options.split("&")]
    return "&".join(name if name == MASK else f"{name}={MASK}" for name in names)


def _shown_url(found: re.Match[str]) -> str:
    url = found[0]
    stripped = url.rstrip(".,;:!)]}`")
    if "@" not in stripped and "?" not in stripped:
        return url
    return without_password(stripped) + url[len(stripped) :]


def _secrets_of(url: str) -> Iterable[str]:
    rest = url.partition("://")[2]
    authority, _, _ = _split(rest)
    userinfo = authority.rpartition("@")[0] or (rest.rpartition("@")[0] if "@" in rest else "")
    user, has_password, password = userinfo.partition(":")
    yield password if has_password else user
    for name, value in parse_qsl(rest.partition("?")[2]):
        if _SECRET_OPTION.search(name):
            yield value


def _remember(secrets: Iterable[str]) -> None:
    for secret in secrets:
        _secrets.update(form for form in (secret, unquote(secret)) if len(form) >= _MIN_LENGTH)
