"""Why a Redis or Valkey cannot be used, in its own words.

A server that refuses a client says so in one line and closes the connection. A client library that is still writing its
greeting at that moment reports "Connection reset" or "Broken pipe" and loses the line. `explained` looks it up: it
connects once more, listens before it says anything, and then asks. This also finds out that something else listens at
the address, or that only one side speaks TLS.

No text that this module makes contains a user name or a password of an address.
"""

from __future__ import annotations

import re
import socket
import ssl
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

from tandem.ops.secrets import redacted

_DEFAULT_PORT: Final = 6379
_GREETING_SECONDS: Final = 0.15
"""How long a server may take to refuse a client that has said nothing yet."""
_REPLY_SECONDS: Final = 1.0
_PING: Final = b"*1\r\n$4\r\nPING\r\n"
_MAX_CHARACTERS: Final = 240
_TLS_RECORDS: Final = (b"\x15\x03", b"\x16\x03")
"""An alert and a handshake: how a TLS server answers what is no TLS."""
_PIPELINED: Final = re.compile(r"\ACommand # \d+ \(.*?\) of pipeline caused error: ", re.DOTALL)
"""What redis-py puts before the words of the server: the command of ours that failed, with its keys."""
_CONNECTION_ERRORS: Final = frozenset({"ConnectionError", "TimeoutError", "OSError", "InvalidResponse"})
"""Names of the exceptions that may hide a refusal; redis-py's and Python's own share them."""


def explained(url: str, error: BaseException) -> str:
    """Why a command failed or a connection could not be made: one line, the server's own words where it has any.

    `error` is the exception of the client library. Takes up to three seconds where the server gave no reason and has to
    be asked again: call it outside an event loop, and not for every failed command.
    """
    if (words := own_words(error)) is not None:
        return words
    return diagnosed(url) or _one_line(str(error)) or type(error).__name__


def own_words(error: BaseException) -> str | None:
    """The server's reply that the client library turned into `error`; None if there was none."""
    text = _PIPELINED.sub("", str(error))
    code = getattr(error, "status_code", None)
    if isinstance(code, str) and code:
        return _one_line(f"{code} {text}")
    if _CONNECTION_ERRORS.isdisjoint(kind.__name__ for kind in type(error).__mro__):
        return _one_line(text) or type(error).__name__
    return None


def diagnosed(url: str) -> str | None:
    """What is wrong at an address, found by connecting to it; None if it answers as it should, or nothing answers."""
    speaks_tls = url.startswith("rediss://")
    try:
        said = _said(url, tls=speaks_tls)
    except (ssl.SSLError, TimeoutError) as error:
        # A server without TLS takes the handshake for a command that is not complete yet, and goes on waiting.
        if speaks_tls and _is_redis(_said_or_nothing(url, tls=False)):
            return "the server speaks no TLS: begin the address with redis:// instead of rediss://"
        if isinstance(error, ssl.SSLError):
            return f"no TLS connection: {_one_line(str(getattr(error, 'verify_message', '') or error.reason or error))}"
        return f"it accepts connections, and does not answer within {_REPLY_SECONDS:g} s"
    except (ConnectionResetError, BrokenPipeError):
        said = b""
    except (OSError, ValueError):
        return None  # nothing listens there: the error of the caller says it better
    if not speaks_tls and (not said or said.startswith(_TLS_RECORDS)) and _completes_handshake(url):
        return "the server speaks TLS: begin the address with rediss:// instead of redis://"
    return _meaning(said)


def _meaning(said: bytes) -> str | None:
    line = said.partition(b"\r\n")[0]
    if line.startswith(b"-"):
        return _one_line(line[1:].decode(errors="replace"))
    if _is_redis(said):
        return None
    if not said:
        return "the server closes the connection without a word"
    if said.startswith((b"HTTP/", b"<")):
        return "what listens there is an HTTP server, not a Redis or Valkey"
    if said[3:4] == b"\x04" and said[:2] == b"\x00\x00":
        return "what listens there speaks HTTP/2 (gRPC), it is not a Redis or Valkey"
    return f"what listens there is not a Redis or Valkey: it says {_one_line(line[:60].decode(errors='replace'))!r}"


def _is_redis(said: bytes) -> bool:
    return said.startswith((b"+", b"-", b":", b"$", b"*"))


def _said_or_nothing(url: str, *, tls: bool) -> bytes:
    try:
        return _said(url, tls=tls)
    except OSError:
        return b""


def _said(url: str, *, tls: bool) -> bytes:
    """What the server says to a client that waits for a moment and then sends PING. Raises OSError."""
    with _connected(url, tls=tls) as connection:
        connection.settimeout(_GREETING_SECONDS)
        try:
            if greeting := connection.recv(1024):
                return greeting
        except TimeoutError:
            pass  # the usual case: a server waits for the client
        else:
            return b""
        connection.settimeout(_REPLY_SECONDS)
        connection.sendall(_PING)
        return connection.recv(1024)


def _completes_handshake(url: str) -> bool:
    try:
        with _connected(url, tls=True, verified=False):
            return True
    except ssl.SSLError as error:
        # The server's own alert (it may want a certificate of the client) is TLS; anything else is not.
        return "ALERT" in str(error.reason or "")
    except OSError:
        return False


def _connected(url: str, *, tls: bool, verified: bool = True) -> socket.socket:
    parts = urlsplit(url)
    if parts.scheme == "unix":
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(_REPLY_SECONDS)
        try:
            connection.connect(unquote(parts.path or parts.netloc))
        except OSError:
            connection.close()
            raise
        return connection
    host = parts.hostname or "localhost"
    connection = socket.create_connection((host, parts.port or _DEFAULT_PORT), timeout=_REPLY_SECONDS)
    if not tls:
        return connection
    try:
        return _tls_context(parts.query, verified=verified).wrap_socket(connection, server_hostname=host)
    except OSError:
        connection.close()
        raise


def _tls_context(query: str, *, verified: bool) -> ssl.SSLContext:
    options = {name: values[-1] for name, values in parse_qs(query).items()}
    context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
    if not verified or options.get("ssl_cert_reqs") == "none":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif options.get("ssl_check_hostname", "").lower() in {"false", "0", "no"}:
        context.check_hostname = False
    if certificate := options.get("ssl_certfile"):
        context.load_cert_chain(certificate, options.get("ssl_keyfile"))
    return context


def _one_line(text: str) -> str:
    line = redacted(" ".join(text.split()))
    return line if len(line) <= _MAX_CHARACTERS else f"{line[: _MAX_CHARACTERS - 1]}…"
