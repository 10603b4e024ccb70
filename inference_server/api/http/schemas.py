"""JSON Schemas (draft 2020-12) of every payload, made from the descriptors of the .proto files.

Schemas written by hand would be a second definition of the API, and would drift from the first. Descriptors lack the
limits; these come from the constants that admission and `wire_events` check.

JSON is the proto3 JSON mapping under the names of the .proto. Requests must use its strict form: names have one
spelling, numbers are numbers, and null is not a value. Responses always hold every field that has no presence, so that
`items` and `degraded_reasons` are present when they are empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from inference_server.api import wire_events as incoming
from inference_server.request.flow.limits import (
    MAX_ATTRIBUTE_VALUES,
    MAX_ATTRIBUTES,
    MAX_CATEGORIES,
    MAX_CONTEXT_ENTRIES,
    MAX_EXCLUDED_IDS,
    MAX_IDS,
    MAX_NUM_ITEMS,
    MAX_QUERIES,
)
from tandem.contract import names
from tandem.contract.store import MAX_ID_BYTES
from tandem.v1 import recommendation_pb2 as pb

JsonSchema = dict[str, Any]

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

# Lengths are in characters here; admission counts bytes of UTF-8.
_ID: Final[JsonSchema] = {"maxLength": MAX_ID_BYTES}
_ENTRY: Final[JsonSchema] = {"minLength": 1, "maxLength": MAX_ID_BYTES}
_ENTRIES: Final[JsonSchema] = {"minItems": 1, "maxItems": incoming.MAX_ENTRIES}
_MAX_INT32: Final = 2**31 - 1
_TIME: Final = (
    r"^(19[7-9]\d|[2-9]\d{3})-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])T([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,9})?"
    r"(Z|[+-]([01]\d|2[0-3]):[0-5]\d)$"
)
"""A time from 1970 on, in the form of the proto3 JSON mapping."""
_NUM_ITEMS: Final[JsonSchema] = {"minimum": 0, "maximum": MAX_NUM_ITEMS}

LIMITS: Final[Mapping[str, JsonSchema]] = {
    "RecommendRequest.user_id": _ID,
    "RecommendRequest.num_items": _NUM_ITEMS,
    "RecommendRequest.recent_item_ids": {"maxItems": MAX_IDS},
    "RecommendRequest.recent_item_ids[]": _ENTRY,
    "RecommendRequest.context": {"maxProperties": MAX_CONTEXT_ENTRIES, "propertyNames": _ID},
    "RecommendRequest.context[]": _ID,
    "RecommendRequest.diversity": {"minimum": 0, "maximum": 1},
    "RecommendFilter.include_categories": {"maxItems": MAX_CATEGORIES},
    "RecommendFilter.include_categories[]": _ENTRY,
    "RecommendFilter.exclude_categories": {"maxItems": MAX_CATEGORIES},
    "RecommendFilter.exclude_categories[]": _ENTRY,
    "RecommendFilter.exclude_item_ids": {"maxItems": MAX_EXCLUDED_IDS},
    "RecommendFilter.exclude_item_ids[]": _ENTRY,
    "RecommendFilter.attributes": {"maxItems": MAX_ATTRIBUTES},
    "AttributePredicate.name": _ENTRY,
    "AttributePredicate.any_of": {"maxItems": MAX_ATTRIBUTE_VALUES},
    "AttributePredicate.any_of[]": _ID,
    "AttributePredicate.none_of": {"maxItems": MAX_ATTRIBUTE_VALUES},
    "AttributePredicate.none_of[]": _ID,
    "RecommendManyRequest.queries": {"minItems": 1, "maxItems": MAX_QUERIES},
    "RecommendBatchRequest.correlation_id": _ID,
    "SimilarItemsRequest.item_ids": {"minItems": 1, "maxItems": MAX_IDS},
    "SimilarItemsRequest.item_ids[]": _ENTRY,
    "SimilarItemsRequest.num_items": _NUM_ITEMS,
    "RecordEventsRequest.events": _ENTRIES,
    "Event.event_id": _ENTRY,
    "Event.user_id": _ENTRY,
    "Event.item_id": _ENTRY,
    # The unspecified type is a value of the enum, but not of an event.
    "Event.type": {"enum": [f"EVENT_TYPE_{name.upper()}" for name in names.EVENT_TYPES]},
    "Event.value": {"minimum": 0},
    "Event.occurred_at": {"pattern": _TIME},
    "Event.request_id": _ID,
    "Event.position": {"minimum": 0, "maximum": _MAX_INT32},
    "Event.currency": {"pattern": f"^({incoming.CURRENCY_PATTERN})?$"},
    "UpsertItemsRequest.items": _ENTRIES,
    "Item.item_id": _ENTRY,
    "Item.title": {"maxLength": incoming.MAX_TITLE_CHARACTERS},
    "Item.description": {"maxLength": incoming.MAX_DESCRIPTION_CHARACTERS},
    "Item.categories": {"maxItems": incoming.MAX_CATEGORIES},
    "Item.categories[]": _ENTRY,
    "Item.attributes": {"maxProperties": incoming.MAX_ATTRIBUTES, "propertyNames": _ENTRY},
    "Item.attributes[]": _ID,
    "DeleteItemsRequest.item_ids": _ENTRIES,
    "DeleteItemsRequest.item_ids[]": _ENTRY,
}
"""The limits of a field, by message and field; with [], the limits of each of its entries."""

_REQUIRED_IN_REQUESTS: Final = {
    "AttributePredicate": ["name"],
    "RecommendManyRequest": ["queries"],
    "SimilarItemsRequest": ["item_ids"],
    "RecordEventsRequest": ["events"],
    "Event": ["event_id", "user_id", "item_id", "type"],
    "UpsertItemsRequest": ["items"],
    "Item": ["item_id"],
    "DeleteItemsRequest": ["item_ids"],
}

ERROR: Final[JsonSchema] = {
    "title": "Error",
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "status", "message"],
            "properties": {
                "code": {"type": "integer", "description": "The HTTP status."},
                "status": {"type": "string", "description": "Name of the gRPC status that says the same."},
                "message": {"type": "string", "description": "What is wrong, for a person."},
                "field": {
                    "type": "string",
                    "description": "The field of the request, or the header, that is wrong, as a path.",
                },
                "retry_after_ms": {"type": "integer", "minimum": 0, "description": "When to try again (429)."},
                "request_id": {"type": "string", "description": "What the server's log calls this failure (500)."},
            },
        }
    },
}

_SIMPLE: Final[Mapping[int, JsonSchema]] = {
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_FLOAT: {"type": "number"},
    FieldDescriptor.TYPE_DOUBLE: {"type": "number"},
    FieldDescriptor.TYPE_INT32: {"type": "integer"},
    # 64-bit integers are strings in proto3 JSON: a reader that converts numbers to doubles would change them.
    FieldDescriptor.TYPE_INT64: {"type": "string", "pattern": "^-?[0-9]+$"},
}
_WELL_KNOWN: Final[Mapping[str, JsonSchema]] = {
    "google.protobuf.Struct": {"type": "object"},
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    # In requests it is the value of an attribute.
    "google.protobuf.Value": {"type": ["string", "number"]},
}

_PAYLOADS: Final[Mapping[str, tuple[Descriptor, bool]]] = {
    "recommend-request": (pb.RecommendRequest.DESCRIPTOR, True),
    "recommend-response": (pb.RecommendResponse.DESCRIPTOR, False),
    "recommend-many-request": (pb.RecommendManyRequest.DESCRIPTOR, True),
    "recommend-many-response": (pb.RecommendManyResponse.DESCRIPTOR, False),
    "similar-items-request": (pb.SimilarItemsRequest.DESCRIPTOR, True),
    "similar-items-response": (pb.SimilarItemsResponse.DESCRIPTOR, False),
    "record-events-request": (pb.RecordEventsRequest.DESCRIPTOR, True),
    "record-events-response": (pb.RecordEventsResponse.DESCRIPTOR, False),
    "upsert-items-request": (pb.UpsertItemsRequest.DESCRIPTOR, True),
    "upsert-items-response": (pb.UpsertItemsResponse.DESCRIPTOR, False),
    "delete-items-request": (pb.DeleteItemsRequest.DESCRIPTOR, True),
    "delete-items-response": (pb.DeleteItemsResponse.DESCRIPTOR, False),
    "status-response": (pb.GetServingStatusResponse.DESCRIPTOR, False),
}
"""The message of each payload, and whether callers send it."""


def schema_documents() -> dict[str, JsonSchema]:
    """Every payload's self-contained schema, by the name under which it is served."""
    documents: dict[str, JsonSchema] = {}
    for name, (descriptor, is_request) in _PAYLOADS.items():
        writer = _Writer("#/$defs/", is_request=is_request)
        document = writer.message(descriptor)
        documents[name] = document | ({"$defs": writer.definitions} if writer.definitions else {})
    documents["error"] = ERROR
    return {name: {"$schema": DIALECT, "$id": f"/schemas/{name}.json", **doc} for name, doc in documents.items()}


def components() -> dict[str, JsonSchema]:
    """The same schemas for OpenAPI's references: by the name of the message, each once."""
    found: dict[str, JsonSchema] = {"Error": ERROR}
    for descriptor, is_request in _PAYLOADS.values():
        writer = _Writer("#/components/schemas/", is_request=is_request)
        found[descriptor.name] = writer.message(descriptor)
        found |= writer.definitions
    return found


class _Writer:
    """Converts messages to schemas, and collects the schemas that they refer to."""

    def __init__(self, prefix: str, *, is_request: bool) -> None:
        """`prefix` is where references find the collected schemas."""
        self.definitions: dict[str, JsonSchema] = {}
        self._prefix = prefix
        self._is_request = is_request

    def message(self, descriptor: Descriptor) -> JsonSchema:
        """An object with the fields of a message.

        A request with a field that does not exist is refused, because a misspelt filter must not be ignored. Responses
        are left open, because a client that checks them must survive a field that is new.
        """
        schema: JsonSchema = {
            "title": descriptor.name,
            "type": "object",
            "properties": {field.name: self._field(field) for field in descriptor.fields},
        }
        if self._is_request:
            schema["additionalProperties"] = False
            required = _REQUIRED_IN_REQUESTS.get(descriptor.name, [])
        else:
            required = [field.name for field in descriptor.fields if not field.has_presence]
        return schema | ({"required": required} if required else {})

    def _field(self, field: FieldDescriptor) -> JsonSchema:
        assert field.containing_type is not None  # only extensions have none
        name = f"{field.containing_type.name}.{field.name}"
        limits = LIMITS.get(name, {})
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            values = self._value(field.message_type.fields_by_name["value"])
            return {"type": "object", "additionalProperties": values | LIMITS.get(f"{name}[]", {})} | limits
        if field.is_repeated:
            return {"type": "array", "items": self._value(field) | LIMITS.get(f"{name}[]", {})} | limits
        return self._value(field) | limits

    def _value(self, field: FieldDescriptor) -> JsonSchema:
        if field.enum_type is not None:
            return {"type": "string", "enum": [value.name for value in field.enum_type.values]}
        if field.message_type is None:
            return dict(_SIMPLE[field.type])
        if field.message_type.full_name in _WELL_KNOWN:
            return dict(_WELL_KNOWN[field.message_type.full_name])
        name = field.message_type.name
        if name not in self.definitions:
            self.definitions[name] = {}  # reserved, because a message that contains itself comes here again
            self.definitions[name] = self.message(field.message_type)
        return {"$ref": self._prefix + name}
