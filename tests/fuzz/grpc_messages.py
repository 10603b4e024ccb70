"""Bytes for every method of a gRPC server: messages made from the descriptors with extreme values, the same with
mutated bytes, and random bytes."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor, FileDescriptor
from google.protobuf.message import EncodeError, Message
from google.protobuf.message_factory import GetMessageClass
from grpc_channelz.v1 import channelz_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from tandem.v1 import recommendation_pb2 as pb

_API: Final[FileDescriptor] = pb.DESCRIPTOR
_OTHERS: Final[Sequence[FileDescriptor]] = (
    health_pb2.DESCRIPTOR,
    channelz_pb2.DESCRIPTOR,
    reflection_pb2.DESCRIPTOR,
)
_API_SHARE: Final = 0.85

_TEXTS: Final = (
    *("", "a", "item-1", "user", "\0", "a\nb", '{"x":1}', "<script>", "\u202e", "💩" * 64, "../../etc/passwd", "%s%n"),
    *(
        "x" * 256,
        "x" * 257,
        "é" * 128,
        "é" * 129,
        "\x1b[31m",
        "\ufeff",
        "NaN",
        "1e999",
        "null",
        " ",
        "default",
        "drama",
    ),
    *("Comedy", "year", "\ud7ff", "\ue000", "a\r\nINFO forged", "tandem.v1.RecommendationService", "q" * 10_001),
    *("recommendation.proto", "tandem/v1/recommendation.proto", "tandem.v1.RecommendRequest.user_id"),
)
_ORDINARY: Final = ("a", "user", "drama", "comedy", "rare", "release_year", "1995")
_INT32: Final = (0, 1, -1, 2, 10, 499, 500, 501, 1000, 65_536, 2**31 - 1, -(2**31))
_SMALL: Final = (0, 1, 2, 10)
_INT64: Final = (0, 1, -1, 2**63 - 1, -(2**63), 253_402_300_799, 253_402_300_800, -62_135_596_800, 1_700_000_000)
_FLOATS: Final = (0.0, -0.0, 0.5, 1.0, -1.0, 1.0000001, 5.0, 1995.0, 2.0**53, 5e-324, 1e-45, 1e308, -1e308)
_NOT_FINITE: Final = (float("nan"), float("inf"), float("-inf"))
_NANOSECONDS: Final = (0, 1, -1, 999_999_999, 10**9, -(2**31), 2**31 - 1)
_LENGTHS: Final = (0, 1, 2, 3, 5)
_LONG: Final = (32, 33, 100, 101, 256, 257, 1000, 1001)
_BYTES: Final = (0x00, 0x7F, 0x80, 0xC0, 0xED, 0xF8, 0xFF)
_MOSTLY_SET: Final = frozenset(
    {"events", "items", "item_ids", "queries", "event_id", "item_id", "user_id", "type", "request", "name", "any_of"}
)
"""Fields without which a message is refused before anything else is looked at."""
_MAX_DEPTH: Final = 4
_NESTED_GROUPS: Final = b"\x0b" * 150 + b"\x0c" * 150


@dataclass(frozen=True)
class Method:
    """A method and the class of its requests."""

    path: str
    """ "package.Service/Method"."""
    request: type[Message]
    requests_are_streamed: bool


def methods_of(file: FileDescriptor) -> list[Method]:
    """Every method of the services that a .proto file defines."""
    return [
        Method(f"{service.full_name}/{method.name}", GetMessageClass(method.input_type), method.client_streaming)
        for service in file.services_by_name.values()
        for method in service.methods
    ]


class Messages:
    """An endless supply, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._api = methods_of(_API)
        self._others = [method for file in _OTHERS for method in methods_of(file)]
        self.page_tokens: list[str] = []
        """Tokens that the server issued; some messages contain one, or a damaged one."""

    def method(self) -> Method:
        """Draws a method, mostly of the API."""
        return self._random.choice(self._api if self._random.random() < _API_SHARE else self._others)

    def count(self) -> int:
        """Draws the number of messages of a stream."""
        return self._random.choice((1, 1, 2, 5, 20))

    def payload(self, method: Method) -> bytes:
        """Draws the bytes of one message: 20 % random, 40 % valid, 40 % valid and then mutated."""
        kind = self._random.random()
        if kind < 0.2:
            if kind < 0.005:
                return self._random.choice((_NESTED_GROUPS, b"\x0a" * 5000, b"\x82" * 3000))
            return self._random.randbytes(self._random.choice((0, 1, 2, 5, 17, 100, 1000)))
        message = method.request()
        self._fill(message, 0)
        try:
            encoded = message.SerializeToString()
        except (EncodeError, ValueError):  # nested more deeply than can be encoded
            return _NESTED_GROUPS
        return encoded if kind < 0.6 else self._mutated(encoded)

    def _fill(self, message: Message, depth: int) -> None:
        for field in message.DESCRIPTOR.fields:
            if self._random.random() > (0.95 if field.name in _MOSTLY_SET else 0.3):
                continue
            if field.message_type is not None and field.message_type.GetOptions().map_entry:
                self._fill_map(getattr(message, field.name), field.message_type.fields_by_name["value"], depth)
            elif field.is_repeated:
                values = getattr(message, field.name)
                long = self._random.random() < 0.02 and (field.message_type is None or depth == 0)
                for _ in range(self._random.choice(_LONG if long else _LENGTHS)):
                    if field.message_type is None:
                        values.append(self._scalar(field))
                    elif depth < _MAX_DEPTH:
                        self._fill(values.add(), depth + 1)
            elif field.message_type is None:
                setattr(message, field.name, self._scalar(field))
            elif depth < _MAX_DEPTH:
                self._fill_message(getattr(message, field.name), depth)

    def _fill_message(self, message: Any, depth: int) -> None:
        if message.DESCRIPTOR.full_name == "google.protobuf.Timestamp":
            message.seconds = self._random.choice(_INT64)
            message.nanos = self._random.choice(_NANOSECONDS) if self._random.random() < 0.5 else 0
        else:
            message.SetInParent()
            self._fill(message, depth + 1)

    def _fill_map(self, values: Any, field: FieldDescriptor, depth: int) -> None:
        for _ in range(self._random.choice(_LONG if self._random.random() < 0.02 else _LENGTHS)):
            key = self._text("key") + str(self._random.randrange(99))
            if field.message_type is None:
                values[key] = self._scalar(field)
            elif field.message_type.full_name == "google.protobuf.Value":
                self._fill_value(values[key])
            else:
                self._fill(values[key], depth + 1)

    def _fill_value(self, value: Any) -> None:
        kind = self._random.randrange(5)
        if kind == 0:
            value.string_value = self._text("value")
        elif kind == 1:
            value.number_value = self._random.choice((*_FLOATS, *_NOT_FINITE))
        elif kind == 2:
            value.bool_value = True
        elif kind == 3:
            value.struct_value.fields["a"].null_value = 0
        else:
            nested = value
            for _ in range(self._random.choice((1, 5, 40))):
                nested = nested.list_value.values.add()
            nested.null_value = 0

    def _scalar(self, field: FieldDescriptor) -> Any:
        makers: dict[int, Callable[[], Any]] = {
            FieldDescriptor.TYPE_STRING: lambda: self._text(field.name),
            FieldDescriptor.TYPE_BYTES: lambda: self._random.randbytes(8),
            FieldDescriptor.TYPE_BOOL: lambda: self._random.random() < 0.5,
            FieldDescriptor.TYPE_DOUBLE: lambda: self._random.choice((*_FLOATS, *_NOT_FINITE)),
            FieldDescriptor.TYPE_FLOAT: lambda: self._random.choice(
                (0.0, -0.0, 0.5, 1.0, 1.0000001, -1.0, *_NOT_FINITE)
            ),
            FieldDescriptor.TYPE_ENUM: lambda: self._random.choice((0, 1, 2, 3, 4, 5, 6, 7, -1, 2**31 - 1)),
            FieldDescriptor.TYPE_INT32: lambda: self._random.choice(_INT32 if self._random.random() < 0.5 else _SMALL),
            FieldDescriptor.TYPE_INT64: lambda: self._random.choice(_INT64),
        }
        return makers[field.type]()

    def _text(self, name: str) -> str:
        if name.endswith(("item_id", "item_ids")) and self._random.random() < 0.6:
            return f"item-{self._random.randrange(220)}"
        if name == "page_token" and self.page_tokens and self._random.random() < 0.5:
            token = self._random.choice(self.page_tokens)
            place = self._random.randrange(len(token))
            return self._random.choice((token, token[:place], token[:place] + "A" + token[place + 1 :]))
        if name in {"page_token", "scenario"} and self._random.random() < 0.8:
            return ""
        if self._random.random() < 0.8:
            return self._random.choice(_ORDINARY)
        return self._random.choice(_TEXTS)

    def _mutated(self, encoded: bytes) -> bytes:
        mutated = bytearray(encoded or b"\0")
        for _ in range(self._random.choice((1, 1, 2, 4, 16))):
            place = self._random.randrange(len(mutated) or 1)
            match self._random.randrange(6):
                case 0 if mutated:
                    mutated[place] ^= 1 << self._random.randrange(8)
                case 1:
                    del mutated[place : place + self._random.randrange(1, 9)]
                case 2:
                    mutated[place:place] = self._random.randbytes(self._random.randrange(1, 9))
                case 3:
                    del mutated[place:]
                case 4:
                    mutated[place:place] = mutated[place : place + self._random.randrange(1, 64)]
                case _ if mutated:
                    mutated[place] = self._random.choice(_BYTES)
        return bytes(mutated)
