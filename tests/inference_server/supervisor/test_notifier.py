"""Messages to people, to a real webhook and to one that is dead."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from deploy.local.ports import free_port
from inference_server.core.errors import SettingsError
from inference_server.supervisor import notifier
from inference_server.supervisor.notifier import DROPPED, FAILED, SENT, Notifier, read_urls, require_extra
from tests.support.serving import wait_until
from tests.support.webhook import webhook

pytestmark = pytest.mark.process

SECRET = "aiS4iech0eeph"


@pytest.fixture
def hook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    with webhook(SECRET) as running:
        yield running


def dead() -> str:
    return f"json://ops:{SECRET}dead@127.0.0.1:{free_port()}/hook"


async def test_a_dead_channel_keeps_no_message_from_another(
    hook: tuple[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    url, arrived = hook
    path = tmp_path / "urls"
    path.write_text(f"# operators\n\n{dead()}\n  {url}\n")
    telling = Notifier(path)
    with capture_logs() as logs:
        for number in range(3):
            telling.tell(f"title {number}", f"body {number} of {url}")
        await wait_until(lambda: len(arrived) == 3, "all messages have arrived")
        await wait_until(lambda: telling.outcomes[FAILED] == 3, "the dead channel is given up")
    assert {message["title"] for message in arrived} == {"title 0", "title 1", "title 2"}
    assert telling.outcomes == {SENT: 3, FAILED: 3, DROPPED: 0}
    assert [line["reason"] for line in logs] == ["channel 1: it did not take the message"] * 3
    assert SECRET not in str(logs) + str(arrived)
    await telling.close()


async def test_more_messages_than_can_be_on_their_way_are_dropped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(notifier, "_MAX_SENDING", 2)
    path = tmp_path / "urls"
    path.write_text(dead())
    telling = Notifier(path)
    for number in range(5):
        telling.tell(f"title {number}", "body")
    assert telling.outcomes[DROPPED] == 3
    await telling.close()


async def test_a_file_that_has_gone_fails_the_message_alone(tmp_path: Path) -> None:
    path = tmp_path / "urls"
    telling = Notifier(path)
    with capture_logs() as logs:
        await telling.send("title", "body")
    assert telling.outcomes[FAILED] == 1
    assert logs[0]["reason"] == f"TANDEM_NOTIFY_URLS_FILE: {path} cannot be read: No such file or directory"


async def test_without_a_file_nobody_is_told() -> None:
    telling = Notifier(None)
    telling.tell("title", "body")
    await telling.send("title", "body")
    assert not telling.outcomes
    await telling.close()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "names no URL"),
        ("# nobody\n\n", "names no URL"),
        (f"json://localhost/\nnonsense://{SECRET}\n", ":2: is no URL that apprise knows"),
        (f"{SECRET}\n", ":1: is no URL that apprise knows"),
    ],
)
def test_a_file_with_a_mistake_is_refused_by_its_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "urls"
    path.write_text(text)
    with pytest.raises(SettingsError) as refused:
        read_urls(path)
    assert str(refused.value).startswith(f"TANDEM_NOTIFY_URLS_FILE: {path}")
    assert str(refused.value).endswith(words)
    assert SECRET not in str(refused.value)


def test_the_extra_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    require_extra()
    monkeypatch.setattr(notifier, "_LIBRARY", "a_package_that_is_not_there")
    with pytest.raises(SettingsError, match=r"needs the extra: pip install 'tandem-recommender\[notify\]'"):
        require_extra()
