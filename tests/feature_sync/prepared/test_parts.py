"""Parts in threads: what their health says of one that is stuck, one that rests, and one that ends."""

from __future__ import annotations

import threading
from collections.abc import Callable

from feature_sync.core.progress import Progress, report_progress
from feature_sync.prepared.parts import Part, Threads
from tests.support.waiting import wait_until

STUCK_SECONDS = 0.3


class Scripted:
    """A part that does what a test says."""

    def __init__(self, work: Callable[[threading.Event], None]) -> None:
        self._work = work
        self._stop = threading.Event()

    def run(self) -> None:
        self._work(self._stop)

    def stop(self) -> None:
        self._stop.set()


def busy(stop: threading.Event) -> None:
    while not stop.wait(0.01):
        report_progress()


def resting(stop: threading.Event) -> None:
    report_progress(may_take_seconds=600)
    stop.wait()


def threads(**parts: Part) -> Threads:
    return Threads(parts, stuck_seconds=STUCK_SECONDS, on_end=lambda: None)


def test_a_part_that_waits_for_ever_is_named_and_one_that_announced_its_rest_is_not() -> None:
    goes_on = threading.Event()

    def stuck(stop: threading.Event) -> None:
        goes_on.wait()
        busy(stop)

    parts = threads(archive=Scripted(stuck), events=Scripted(busy), live_bundles=Scripted(resting))
    parts.start()
    try:
        wait_until(lambda: "archive has made no progress for" in parts.problem(), "the stuck part is named")
        assert "live_bundles" not in parts.problem()
        assert parts.silent_seconds()["live_bundles"] == 0.0
        goes_on.set()
        wait_until(lambda: parts.problem() == "", "it goes on")
    finally:
        goes_on.set()
        parts.stop(10)


def test_a_part_that_ended_is_named() -> None:
    parts = threads(events=Scripted(busy), archive=Scripted(lambda _: None))
    parts.start()
    try:
        wait_until(lambda: parts.problem() == "archive has ended", "the end is noticed")
    finally:
        parts.stop(10)


def test_a_report_outside_a_part_does_nothing() -> None:
    report_progress()


def test_silence_begins_where_the_announced_time_ends() -> None:
    now = 100.0
    progress = Progress(clock=lambda: now)
    progress.report(5.0)
    now = 104.0
    assert progress.silent_seconds == 0.0
    now = 107.5
    assert progress.silent_seconds == 2.5
