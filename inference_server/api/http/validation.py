"""Checks payloads against their schemas. The only module that imports jsonschema_rs.

Pydantic models would be a second definition of the API; this check takes a few microseconds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Any, Final

import jsonschema_rs

from inference_server.api.wire_events import NOT_A_TIME
from inference_server.core.errors import InvalidRequest

BODY: Final = "body"
"""The name of the whole payload in errors."""

NOT_UNICODE: Final = "has text that is not Unicode: half of a surrogate pair"

# Stands for the wrong value in messages: the value itself may be a list of ten thousand ids.
_VALUE: Final = "the value"

_MAX_DEPTH: Final = 16
_MAX_NAME_CHARACTERS: Final = 64
"""A caller's own names are cut off in messages: each may be as long as the payload."""

_ALIKE: Final = 0.75
"""Similarity from which a field that exists is proposed for one that does not."""
_CAPITAL: Final = re.compile(r"(?<!^)(?=[A-Z])")

_Kind = jsonschema_rs.ValidationErrorKind


class PayloadCheck:
    """One schema, compiled."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self._validator = jsonschema_rs.Draft202012Validator(schema, mask=_VALUE, validate_formats=True)
        self._names = sorted(set(_field_names(schema)))

    def check(self, payload: object) -> None:
        """Raises InvalidRequest for the first error, with its path: "filter.attributes[0].name"; UnicodeEncodeError for
        half of a surrogate pair."""
        try:
            self._validate(payload)
        except UnicodeEncodeError:
            raise
        except ValueError:
            # The library gives up on a value that is nested too deeply, and does not say where it is. No payload of the
            # API is nested as deeply as what is left here, so the error that it has is at the right place.
            self._validate(_cut(payload, _MAX_DEPTH))
            raise InvalidRequest(BODY, "is nested too deeply") from None

    def _validate(self, payload: object) -> None:
        try:
            self._validator.validate(payload)
        except jsonschema_rs.ValidationError as error:
            raise InvalidRequest(*_explain(error, self._names)) from None


def _cut(value: object, depth: int) -> object:
    """A copy in which everything below `depth` containers is None."""
    if isinstance(value, dict):
        return {name: _cut(entry, depth - 1) for name, entry in value.items()} if depth else None
    if isinstance(value, list):
        return [_cut(entry, depth - 1) for entry in value] if depth else None
    return value


def _field_names(schema: object) -> Iterator[str]:
    """Names of all fields of a schema, at every depth."""
    if isinstance(schema, dict):
        properties = schema.get("properties")
        yield from properties if isinstance(properties, dict) else ()
        for part in schema.values():
            yield from _field_names(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from _field_names(part)


def _no_such_field(name: str, names: Sequence[str]) -> str:
    if name in names:
        return "there is no such field at this place"
    # Other libraries write protobuf's JSON in camel case.
    written = _CAPITAL.sub("_", name[:_MAX_NAME_CHARACTERS]).lower()
    near = get_close_matches(written, names, n=1, cutoff=_ALIKE)
    return f"there is no such field; did you mean {near[0]}?" if near else "there is no such field"


def _explain(error: jsonschema_rs.ValidationError, names: Sequence[str]) -> tuple[str, str]:
    path: list[str | int] = list(error.instance_path)
    kind = error.kind
    if isinstance(kind, _Kind.AdditionalProperties):
        name = kind.unexpected[0]
        return _path([*path, name]), _no_such_field(name, names)
    if isinstance(kind, _Kind.Enum):
        return _path(path), f"must be one of {', '.join(map(str, kind.options))}"
    if isinstance(kind, _Kind.Required):
        return _path([*path, kind.property]), "must be given"
    if isinstance(kind, _Kind.PropertyNames):
        return _path(path), f"a name in it is wrong: {kind.error.message}"
    if isinstance(kind, _Kind.Pattern | _Kind.Format):  # only times have one in requests
        return _path(path), NOT_A_TIME
    return _path(path), error.message


def _path(parts: Sequence[str | int]) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{_shortened(part)}" for part in parts)
    return text.removeprefix(".") or BODY


def _shortened(name: str) -> str:
    return name if len(name) <= _MAX_NAME_CHARACTERS else f"{name[:_MAX_NAME_CHARACTERS]}..."
