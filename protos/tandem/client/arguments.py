"""Checks of a caller's arguments: what protobuf or gRPC cannot send is refused by name, before anything is sent.

Only types and what the wire can hold are checked here. Limits (number of items, length of an id) are the server's.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterable, Iterable, Mapping
from datetime import datetime
from numbers import Integral, Real
from typing import Any, Final, TypeVar

import grpc

from tandem.client.errors import Failure, InvalidArgument

_T = TypeVar("_T")

_INT32: Final = range(-(1 << 31), 1 << 31)
_MAX_SECONDS: Final = 1e8
"""Three years. The waits of Python's threads and of gRPC overflow far beyond it."""
_MAX_SHOWN: Final = 80


def invalid(field: str, description: str) -> InvalidArgument:
    """The error for an argument: `field` as the API writes it, `description` says what is allowed."""
    message = f"{field}: {description}"
    failure = Failure(
        code=grpc.StatusCode.INVALID_ARGUMENT, message=message, field=field, description=description, num_attempts=0
    )
    return InvalidArgument(failure)


def shown(value: object) -> str:
    """A value for a message: short, and free of what cannot be printed."""
    try:
        text = ascii(value)
    except Exception:  # whatever a foreign __repr__ raises
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def text(field: str, value: object) -> str:
    """A text that UTF-8 can encode. Raises InvalidArgument."""
    if not isinstance(value, str):
        raise invalid(field, f"a text, not {shown(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise invalid(field, f"a text of valid characters, not {shown(value)}: {error.reason}") from None
    return value


def check_iterable(field: str, values: object, what: str) -> None:
    """Raises InvalidArgument unless `values` can be iterated, with `for` or `async for`."""
    if isinstance(values, str | bytes | bytearray) or not isinstance(values, Iterable | AsyncIterable):
        raise invalid(field, f"an iterable of {what}, not {shown(values)}")


def listed(field: str, values: Iterable[_T], what: str) -> list[_T]:
    """What an iterable yields. Raises InvalidArgument for what is none, and for a text, which is one of letters."""
    if isinstance(values, str | bytes | bytearray):
        raise invalid(field, f"a list of {what}, not the text {shown(values)}")
    try:
        iterator = iter(values)
    except TypeError:
        raise invalid(field, f"a list of {what}, not {shown(values)}") from None
    return list(iterator)


def texts(field: str, values: Iterable[str]) -> list[str]:
    """A list of texts. Raises InvalidArgument."""
    return [text(f"{field}[{number}]", value) for number, value in enumerate(listed(field, values, "texts"))]


def pairs(field: str, values: Mapping[str, _T]) -> list[tuple[str, _T]]:
    """The entries of a mapping whose names are texts. Raises InvalidArgument."""
    if not isinstance(values, Mapping):
        raise invalid(field, f"a mapping by name, not {shown(values)}")
    return [(text(field, name), value) for name, value in values.items()]


def number(field: str, value: object, *, what: str = "a number") -> float:
    """A number, NaN and infinity included, as a double can hold it. Raises InvalidArgument."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise invalid(field, f"{what}, not {shown(value)}")
    try:
        return float(value)
    except OverflowError:
        raise invalid(field, f"a number that a double can hold, not {shown(value)}") from None


def integer(field: str, value: object) -> int:
    """An integer of 32 bits. Raises InvalidArgument."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise invalid(field, f"an integer, not {shown(value)}")
    if int(value) not in _INT32:
        raise invalid(field, f"an integer of 32 bits, not {shown(value)}")
    return int(value)


def flag(field: str, value: object) -> bool:
    """True or False. Raises InvalidArgument."""
    if not isinstance(value, bool):
        raise invalid(field, f"True or False, not {shown(value)}")
    return value


def time(field: str, value: object) -> datetime:
    """A time with a time zone. Raises InvalidArgument."""
    if not isinstance(value, datetime):
        raise invalid(field, f"a datetime with a time zone, not {shown(value)}")
    if value.utcoffset() is None:
        raise invalid(field, f"a time with a time zone, not {value}")
    return value


def instance(field: str, value: Any, kind: type[_T]) -> _T:
    """A value of one of the client's own types. Raises InvalidArgument."""
    if not isinstance(value, kind):
        raise invalid(field, f"of type {kind.__name__}, not {shown(value)}")
    return value


def seconds(field: str, value: object, *, unit_seconds: float = 1e-3) -> float:
    """A positive time, given in units of `unit_seconds`. Raises InvalidArgument."""
    given = number(field, value)
    if not (math.isfinite(given) and given > 0):
        raise invalid(field, f"more than 0 and finite, not {shown(value)}")
    return min(given * unit_seconds, _MAX_SECONDS)
