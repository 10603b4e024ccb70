"""Messages to people: to the chats, mail boxes and webhooks that a file names, by apprise. The only module that imports
it.

Nothing waits for a message, and no channel for another: each message goes to each channel from a thread of its own. A
channel that does not take a message is asked again twice, and then the message is lost to it, counted and logged. The
URLs hold secrets: no log line and no message shows them.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Final

import structlog

from inference_server.core.daemon_thread import in_daemon_thread
from inference_server.core.errors import SettingsError
from tandem.contract.whole_files import read_whole
from tandem.ops.secrets import redacted, remember_secrets

_log = structlog.get_logger()

SENT: Final = "sent"
FAILED: Final = "failed"
DROPPED: Final = "dropped"
_LIBRARY: Final = "apprise"
_MAX_BYTES: Final = 1 << 16
_MAX_SENDING: Final = 100
_FAREWELL_SECONDS: Final = 1.0
_SEND_SECONDS: Final = 30.0
"""Time for one message to one channel."""
_RETRY_SECONDS: Final = (1.0, 5.0)


class Notifier:
    """Sends messages, on the event loop on which `tell` is called."""

    def __init__(self, urls_file: Path | None) -> None:
        """`urls_file` None: nobody is told anything."""
        self._urls_file = urls_file
        self._sending: set[asyncio.Task[None]] = set()
        self.outcomes: Counter[str] = Counter({SENT: 0, FAILED: 0, DROPPED: 0} if urls_file is not None else {})
        """Messages by what became of them, for each channel."""

    def tell(self, title: str, body: str) -> None:
        """Begins to send a message. Never blocks, and raises nothing."""
        if self._urls_file is None:
            return
        if len(self._sending) >= _MAX_SENDING:
            self.outcomes[DROPPED] += 1
            _log.warning("notification_dropped", title=title, reason=f"{_MAX_SENDING} messages are on their way")
            return
        task = asyncio.create_task(self.send(redacted(title), redacted(body)), name="notification")
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def close(self) -> None:
        """Gives messages on their way a moment, and gives up the others."""
        if self._sending:
            await asyncio.wait(self._sending, timeout=_FAREWELL_SECONDS)
        for task in self._sending:
            task.cancel()

    async def send(self, title: str, body: str) -> None:
        """Sends one message to every channel. Raises nothing."""
        if self._urls_file is None:
            return
        try:
            urls = await asyncio.to_thread(read_urls, self._urls_file)
        except SettingsError as error:
            self._failed(title, str(error))
            return
        problems = await asyncio.gather(*(self._send_to(url, title, body) for url in urls))
        for number, problem in enumerate(problems, start=1):
            if problem:
                self._failed(title, f"channel {number}: {problem}")
            else:
                self.outcomes[SENT] += 1

    async def _send_to(self, url: str, title: str, body: str) -> str:
        """Sends a message to one channel. Returns what was wrong; empty: nothing."""
        problem = ""
        for pause_seconds in (*_RETRY_SECONDS, None):
            try:
                async with asyncio.timeout(_SEND_SECONDS):
                    problem = await in_daemon_thread(lambda: _sent(url, title, body))
            except TimeoutError:
                problem = f"it did not answer in {_SEND_SECONDS:.0f} s"
            except Exception as error:  # apprise's plugins raise what they like
                problem = redacted(repr(error))
            if not problem or pause_seconds is None:
                break
            await asyncio.sleep(pause_seconds)
        return problem

    def _failed(self, title: str, reason: str) -> None:
        self.outcomes[FAILED] += 1
        _log.warning("notification_failed", title=title, reason=redacted(reason))


def read_urls(path: Path) -> list[str]:
    """The URLs in a file, which no message will show from now on. Raises SettingsError, which names the line."""
    try:
        text = read_whole(path, max_bytes=_MAX_BYTES).decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SettingsError(f"TANDEM_NOTIFY_URLS_FILE: {path} cannot be read: {reason}") from error
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1)]
    urls = [(number, line) for number, line in lines if line and not line.startswith("#")]
    if not urls:
        raise SettingsError(f"TANDEM_NOTIFY_URLS_FILE: {path} names no URL")
    remember_secrets({f"NOTIFY_SECRET_{number}": url for number, url in urls})
    apprise = _library()
    for number, url in urls:
        if apprise.Apprise.instantiate(url, suppress_exceptions=True) is None:
            raise SettingsError(f"TANDEM_NOTIFY_URLS_FILE: {path}:{number}: is no URL that apprise knows")
    return [url for _, url in urls]


def require_extra() -> None:
    """Raises SettingsError unless the package of `[notify]` is installed. Does not import it."""
    if importlib.util.find_spec(_LIBRARY) is None:
        raise SettingsError("TANDEM_NOTIFY_URLS_FILE: needs the extra: pip install 'tandem-recommender[notify]'")


def _sent(url: str, title: str, body: str) -> str:
    """Sends a message; blocks. Returns what was wrong; empty: nothing."""
    channel = _library().Apprise()
    if not channel.add(url):
        return "it is no URL that apprise knows"
    return "" if channel.notify(title=title, body=body) else "it did not take the message"


def _library() -> ModuleType:
    """apprise, without its log, which shows URLs. Its import takes a tenth of a second."""
    import apprise

    logging.getLogger(_LIBRARY).setLevel(logging.CRITICAL + 1)
    return apprise
