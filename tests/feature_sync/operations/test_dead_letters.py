"""Dead letters: listed, replayed and dropped by operators."""

from __future__ import annotations

import pytest
import structlog

from feature_sync.commands.cli import main
from feature_sync.core.settings import Settings
from feature_sync.operations.dead_letters import drop_dead_letters, list_dead_letters, replay_dead_letters
from tandem.contract.store import UserState, user_state_key
from tandem.contract.streams import DEAD_REASON_FIELD, ENTRY_FIELD, EVENTS, ITEM_CHANGES, dead_letters_key
from tests.feature_sync.event_rig import MARK_SECONDS, Rig, Stream, drain, event

pytestmark = pytest.mark.process


@pytest.fixture
def settings(stream: Stream) -> Settings:
    """Settings of a stream with four dead letters: an unreadable entry, and three events whose state is unreadable."""
    stream.client.set(user_state_key("ann"), b"\xff")
    stream.append(b"poison", *(event(number) for number in range(3)), event(3, user_id="bob"))
    drain(stream, Rig(stream.url))
    return Settings(store_url=stream.url, event_id_seconds=MARK_SECONDS)


def test_are_listed_with_their_reasons(settings: Settings) -> None:
    listed = list_dead_letters(settings, EVENTS, limit=3)
    assert listed["num_dead_letters"] == 4
    newest, *_ = letters = listed["newest_first"]  # type: ignore[misc]
    assert len(letters) == 3
    assert newest["reason"].startswith("StoreValueError: user state: format 255")  # type: ignore[has-type]
    assert "event_id='event-2'" in newest["entry"]  # type: ignore[has-type]


def test_take_effect_once_their_reason_is_gone(stream: Stream, settings: Settings) -> None:
    assert replay_dead_letters(settings, EVENTS)["num_applied"] == 0
    stream.client.set(user_state_key("ann"), UserState(revision=4).to_bytes())
    replayed = replay_dead_letters(settings, EVENTS)
    assert (replayed["num_applied"], replayed["num_left"]) == (3, 1)
    (reason,) = replayed["left_because"].values()  # type: ignore[attr-defined]
    assert reason.startswith("StreamEntryError: event: format 112")
    assert stream.state("ann").event_counts.sum() == 3
    assert len(stream.applied()) == 4
    assert stream.client.xlen(dead_letters_key(EVENTS)) == 1


def test_an_event_that_was_recorded_again_meanwhile_takes_effect_once(stream: Stream, settings: Settings) -> None:
    stream.client.set(user_state_key("ann"), UserState().to_bytes())
    stream.append(event(1))
    drain(stream, Rig(stream.url))
    replay_dead_letters(settings, EVENTS)
    assert stream.state("ann").event_counts.sum() == 3
    assert stream.client.xlen(dead_letters_key(EVENTS)) == 1


def test_are_dropped(stream: Stream, settings: Settings) -> None:
    assert drop_dead_letters(settings, EVENTS) == {"stream": EVENTS, "num_dropped": 4}
    assert stream.client.exists(dead_letters_key(EVENTS)) == 0


def test_of_item_changes(stream: Stream, settings: Settings) -> None:
    stream.client.xadd(dead_letters_key(ITEM_CHANGES), {ENTRY_FIELD: b"{}", DEAD_REASON_FIELD: b"why"})
    (letter,) = list_dead_letters(settings, ITEM_CHANGES, limit=5)["newest_first"]  # type: ignore[misc]
    assert (letter["reason"], letter["entry"]) == ("why", b"{}".hex())  # type: ignore[has-type]
    assert replay_dead_letters(settings, ITEM_CHANGES)["num_left"] == 1


def test_commands_print_json(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TANDEM_STORE_URL", settings.store_url)
    try:
        assert main(["dead-letters", "list", "--limit", "1"]) == 0
    finally:
        structlog.reset_defaults()  # its logger writes to pytest's captured stream
    assert '"num_dead_letters": 4' in capsys.readouterr().out
