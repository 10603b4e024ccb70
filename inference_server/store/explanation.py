"""Finds out why a store refuses, beside the calls that fail meanwhile."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from tandem.ops.store_words import explained, own_words

_VALID_SECONDS: Final = 5.0
"""An error with the same text is taken to have the same cause for so long."""


class Explanation:
    """Explains the errors of connections to one address."""

    def __init__(self, url: str) -> None:
        """`url` is in redis-py's format."""
        self._url = url
        self._known: dict[str, tuple[str, float]] = {}
        self._asking: asyncio.Task[None] | None = None

    def words(self, error: BaseException) -> str:
        """The server's own words, as far as they are known now.

        Where `error` does not hold them, the server is asked in the background, and the next error of this kind is
        explained.
        """
        words = own_words(error)
        if words is not None:
            return words
        text = str(error) or type(error).__name__
        known, valid_until = self._known.get(text, (text, 0.0))
        if text not in self._known and "refused" not in text:
            # A client that is hung up on reports it in one of several ways; a port that is closed, in one.
            known = next((words for words, until in self._known.values() if time.monotonic() < until), text)
        if time.monotonic() >= valid_until and (self._asking is None or self._asking.done()):
            self._asking = asyncio.create_task(self._ask(text, error), name="store-explanation")
        return known

    async def close(self) -> None:
        """Stops asking."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    async def _ask(self, text: str, error: BaseException) -> None:
        words = await asyncio.to_thread(explained, self._url, error)
        # Few texts are kept: some hold a port or a number that never comes again.
        self._known = {**dict(list(self._known.items())[-8:]), text: (words, time.monotonic() + _VALID_SECONDS)}
