"""Passwords and keys of the tests, and a guard that fails a test whose output holds one.

A test takes its secrets from `secret`. The guard looks at what pytest captured, logs of this process included, and at
what was read from processes that were started, whoever reads it.
"""

from __future__ import annotations

import asyncio.subprocess
import functools
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

_secrets: set[str] = set()
_leaks: list[str] = []
_SHOWN_CHARACTERS = 100


def secret(text: str) -> str:
    """The text, which no log and no message may hold from now on."""
    _secrets.add(text)
    return text


PASSWORD = secret("s3cret-of-the-tests")
"""For URLs."""


def note_output(output: str | bytes | None) -> None:
    """Looks for secrets in what a process has written."""
    text = output.decode(errors="replace") if isinstance(output, bytes) else output or ""
    places = (text.find(known) for known in _secrets)
    _leaks.extend(text[max(0, place - _SHOWN_CHARACTERS) : place + _SHOWN_CHARACTERS] for place in places if place >= 0)


class SecretGuard:
    """A pytest plugin: see the module."""

    def __init__(self) -> None:
        for kind in (subprocess.Popen, asyncio.subprocess.Process):
            setattr(kind, "communicate", _noted(kind.communicate))  # noqa: B010 - mypy refuses the assignment
        self._num_sections: dict[str, int] = {}
        """Sections of its reports that were looked at, by test: later reports of a test hold the earlier ones again."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Iterator[None]:
        report: pytest.TestReport = yield  # type: ignore[misc, assignment]  # what the hook returns
        for _, content in report.sections[self._num_sections.get(report.nodeid, 0) :]:
            note_output(content)
        self._num_sections[report.nodeid] = len(report.sections)
        if _leaks:
            report.outcome = "failed"
            report.longrepr = "an output holds a secret of the tests:\n" + "\n".join(_leaks)
            _leaks.clear()
        return report  # type: ignore[return-value]


def _noted(communicate: Callable[..., Any]) -> Callable[..., Any]:
    """`communicate`, with a look at its result."""
    if asyncio.iscoroutinefunction(communicate):

        @functools.wraps(communicate)
        async def noted_later(*args: Any, **kwargs: Any) -> Any:
            outputs = await communicate(*args, **kwargs)
            for output in outputs:
                note_output(output)
            return outputs

        return noted_later

    @functools.wraps(communicate)
    def noted(*args: Any, **kwargs: Any) -> Any:
        outputs = communicate(*args, **kwargs)
        for output in outputs:
            note_output(output)
        return outputs

    return noted
