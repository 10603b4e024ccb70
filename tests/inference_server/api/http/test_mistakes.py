"""What a payload's mistakes are called: each message names the field, and says what is allowed or what was meant."""

from __future__ import annotations

import time

import pytest

from inference_server.api.http import body
from inference_server.api.http.schemas import schema_documents
from inference_server.api.http.validation import PayloadCheck
from inference_server.core.errors import InvalidRequest
from tandem.contract import names

CHECKS = {name: PayloadCheck(schema_documents()[name]) for name in ("recommend-request", "record-events-request")}
EVENT = {"event_id": "e", "user_id": "u", "item_id": "i"}
TYPES = ", ".join(f"EVENT_TYPE_{name.upper()}" for name in names.EVENT_TYPES)


@pytest.mark.parametrize(
    ("request_name", "payload", "message"),
    [
        ("recommend-request", {"userId": "1"}, "userId: there is no such field; did you mean user_id?"),
        ("recommend-request", {"num_item": 5}, "num_item: there is no such field; did you mean num_items?"),
        ("recommend-request", {"numItems": 5}, "numItems: there is no such field; did you mean num_items?"),
        ("recommend-request", {"exclude_item_ids": []}, "exclude_item_ids: there is no such field at this place"),
        ("recommend-request", {"filter": {"tags": []}}, "filter.tags: there is no such field"),
        ("record-events-request", {"event": [EVENT]}, "event: there is no such field; did you mean events?"),
        ("record-events-request", EVENT, "event_id: there is no such field at this place"),
        *(
            ("record-events-request", {"events": [EVENT | {"type": name}]}, f"events[0].type: must be one of {TYPES}")
            for name in ("click", "EVENT_TYPE_CLIK", "EVENT_TYPE_UNSPECIFIED")
        ),
    ],
)
def test_a_mistake_is_named_with_what_was_meant(request_name: str, payload: object, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        CHECKS[request_name].check(payload)
    assert str(caught.value) == message


def test_a_long_name_that_does_not_exist_is_cut_off() -> None:
    with pytest.raises(InvalidRequest, match=r"^x{64}\.\.\.: there is no such field$"):
        CHECKS["recommend-request"].check({"x" * 1_000_000: 1})


@pytest.mark.parametrize(
    "text", ['{"user_id": "1", "user_id": "2"}', '{"events": [{"event_id": "a", "item_id": "i", "event_id": "a"}]}']
)
def test_a_name_that_occurs_twice_is_not_settled_in_silence(text: str) -> None:
    with pytest.raises(ValueError, match=r"the name '(user_id|event_id)' occurs twice in one object"):
        body._decode(text)


def test_a_name_that_occurs_twice_among_many_is_found_at_once() -> None:
    started = time.process_time()
    with pytest.raises(ValueError, match="twice"):
        body._decode("{" + "".join(f'"k{number}": 1, ' for number in range(50_000)) + '"k49999": 1}')
    assert time.process_time() - started < 5
