"""Schemathesis reads /openapi.json of a real server and checks, with its own requests, that the document is true."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.support.serving import Server

if TYPE_CHECKING:
    # Imported where it is used: it takes a second, which test processes without this test are spared.
    from schemathesis import Case, HookContext

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.process]

_OPERATIONS = 11
_CONFIG = {
    "seed": 0,
    "generation": {
        "max-examples": 40,
        "deterministic": True,
        "database": "none",
        # Lengths are counted in characters by schemas and in bytes by the server: in ASCII the two are one.
        "codec": "ascii",
    },
    # A deadline that is too short is a request that the document allows, and 504 the answer that it promises.
    "checks": {"not_a_server_error": {"expected-statuses": ["2xx", "4xx", 504]}},
}

_OF_TYPE: Final[dict[str, dict[str, Any]]] = {
    "EVENT_TYPE_RATING": {"value": 3},
    "EVENT_TYPE_PURCHASE": {"value": 3, "currency": "EUR"},
}
"""The fields that an event has because of its type."""


@pytest.fixture(autouse=True)
def sensible_requests() -> Iterator[None]:
    import schemathesis

    schemathesis.hook("before_call")(_leave_out_what_no_schema_can_say)
    yield
    schemathesis.hooks.unregister(_leave_out_what_no_schema_can_say)


def _leave_out_what_no_schema_can_say(context: HookContext, case: Case, kwargs: dict[str, Any]) -> None:
    """Removes the names that the server must know (tokens, policies, attributes) from good requests, and from events
    the fields that depend on other fields or on the time."""
    from schemathesis import GenerationMode

    if case.meta is None or case.meta.generation.mode is not GenerationMode.POSITIVE or not isinstance(case.body, dict):
        return
    case.body = {name: value for name, value in case.body.items() if name not in {"page_token", "scenario"}}
    if isinstance(item_filter := case.body.get("filter"), dict):
        case.body["filter"] = {name: value for name, value in item_filter.items() if name != "attributes"}
    if isinstance(events_given := case.body.get("events"), list):
        case.body["events"] = [_without_conditions(event) for event in events_given]


def _without_conditions(event: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in event.items() if name not in {"value", "currency", "occurred_at"}}
    return kept | _OF_TYPE.get(event["type"], {})


async def test_the_document_is_true(server: Server) -> None:
    findings, tried = await asyncio.to_thread(_try, f"http://127.0.0.1:{server.http_port}")
    assert not findings, "\n".join(findings)
    assert len(tried) == _OPERATIONS


def _try(address: str) -> tuple[list[str], set[str]]:
    """The errors that Schemathesis finds, and the operations that it tried."""
    import schemathesis
    from schemathesis.engine import Status, events, from_schema

    schema = schemathesis.openapi.from_url(f"{address}/openapi.json", config=schemathesis.Config.from_dict(_CONFIG))
    findings: list[str] = []
    tried: set[str] = set()
    for event in from_schema(schema).execute():
        if isinstance(event, events.ScenarioFinished):
            tried.add(str(event.label))
            for case_id, checks in event.recorder.checks.items():
                case = event.recorder.cases[case_id].value
                findings += [
                    f"{case.as_curl_command()}: {check.name}: {check.failure_info}"
                    for check in checks
                    if check.status is Status.FAILURE
                ]
        elif isinstance(event, events.NonFatalError):
            findings.append(f"{event.label}: {event.value!r}")
        elif isinstance(event, events.FatalError):
            raise event.exception
    return findings, tried
