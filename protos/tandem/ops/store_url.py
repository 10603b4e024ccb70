"""What may follow the address in the URL of a Redis or Valkey: a database, and options of redis-py."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Final
from urllib.parse import parse_qsl, urlsplit

_DATABASE: Final = re.compile(r"/?\d*")
_NUMBER: Final = re.compile(r"\d+(\.\d+)?")
_NUMBERS: Final = frozenset({"db", "socket_timeout", "socket_connect_timeout"})
_OPTIONS: Final = _NUMBERS | {
    "client_name",
    "password",
    "socket_keepalive",
    "ssl_ca_certs",
    "ssl_ca_data",
    "ssl_ca_path",
    "ssl_cert_reqs",
    "ssl_certfile",
    "ssl_check_hostname",
    "ssl_ciphers",
    "ssl_keyfile",
    "ssl_min_version",
    "ssl_password",
    "ssl_validate_ocsp",
    "username",
}
"""Options that only say how to connect. Others of redis-py change what the programs read."""


def with_options(url: str) -> str:
    """The URL, as it is. Raises ValueError for a database that is no number, which redis-py replaces by 0 in silence,
    and for an option that does not exist, of which it tells only who connects.

    The message quotes nothing: a password that is not written as it must be may lie anywhere.
    """
    parts = urlsplit(url)
    if parts.scheme != "unix" and not _DATABASE.fullmatch(parts.path):
        raise ValueError("has a database that is not a number: redis://host:port/0")
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in _OPTIONS:
            near = get_close_matches(name, sorted(_OPTIONS), n=1)
            meant = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(_OPTIONS))}"
            raise ValueError(f"has an option that does not exist; {meant}")
        if name in _NUMBERS and not _NUMBER.fullmatch(value):
            raise ValueError(f"has an option {name} that is not a number")
    return url
