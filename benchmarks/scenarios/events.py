"""Effect on callers of an event during 1,000 requests a second: a hot swap, an outage, or a killed process.

Latencies count from the moment a request was due, so a stall counts for every request that it held up.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from benchmarks.environment.bench import DEADLINE_MS, Bench, Tandem, say
from benchmarks.load import probe
from benchmarks.load.h2load import Load, LoadResult, grpc_target, quantiles_ms, run_load
from benchmarks.load.metrics import OK
from benchmarks.load.probe import Sample, probing
from benchmarks.load.timeline import Watched, due_seconds, load_timeline, probe_timeline, server_timeline, watching
from benchmarks.synthetic.catalogues import BuiltCatalogue, renamed
from benchmarks.synthetic.users import publish
from tests.support.serving import MlflowRegistry, Valkey, wait_until

RATE: Final = 1000
SWAP_WINDOW_SECONDS: Final = 5.0
STORE_OUTAGE_SECONDS: Final = 5.0

_CATALOGUE: Final = "ml-1m"
_SWAPPED: Final = ("ml-1m", "1m")
_PROBES_PER_SECOND: Final = 50


@dataclass(frozen=True, kw_only=True)
class _Observed:
    """Measurements of a load during which an event took place."""

    begin: float
    """Seconds since 1970 at which the first request was due."""
    seconds: int
    result: LoadResult
    samples: list[Sample]
    watched: Watched

    def summary(self) -> dict[str, Any]:
        """The part that the reports of all events have in common."""
        (_, before), (_, after) = self.watched.scrapes[0], self.watched.scrapes[-1]
        return {
            "load": self.result.summary(),
            "server": after.since(before).summary(),
            "probe": probe.summary(self.samples),
            "timeline": {
                "load": load_timeline(self.result, self.begin, self.seconds),
                "server": server_timeline(self.watched, self.begin),
                "probe": probe_timeline(self.samples, self.begin, self.seconds),
            },
        }

    def p99_ms(self, low: float, high: float, *, inside: bool = True) -> float | None:
        """P99 of the requests due in [low, high), in seconds since 1970; of all further requests if not `inside`."""
        due = due_seconds(self.result, self.begin) + self.begin
        chosen = (due >= low) & (due < high)
        return quantiles_ms(self.result.from_schedule[chosen if inside else ~chosen])["p99"]


async def _observe(
    bench: Bench,
    tandem: Tandem,
    catalogue: BuiltCatalogue,
    event: Callable[[], Awaitable[None]],
    *,
    seconds: float,
    event_at_seconds: float,
    reconnect_seconds: float | None = None,
) -> _Observed:
    """Runs the load and the probe; starts the event `event_at_seconds` after the load's warm-up."""
    requests = bench.requests(catalogue)
    load = replace(Load.at_rate(bench.seconds(RATE, 200), seconds=seconds), reconnect_seconds=reconnect_seconds)

    async def start_event() -> None:
        await asyncio.sleep(load.warm_up_seconds + event_at_seconds)
        await event()

    async with (
        watching(tandem.scrape) as watched,
        probing(tandem.grpc_port, requests, _PROBES_PER_SECOND) as prober,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(start_event())
        loading = group.create_task(run_load(grpc_target(tandem.grpc_port, requests), load))
    result = loading.result()
    begin = float((result.ends - result.from_schedule).min())
    return _Observed(begin=begin, seconds=int(np.ceil(seconds)), result=result, samples=prober.samples, watched=watched)


async def hot_swap(bench: Bench) -> dict[str, Any]:
    """Moves the registry's alias to another version of the same catalogue, for two sizes of catalogue."""
    return {size: await _hot_swap(bench, size) for size in (_SWAPPED[:1] if bench.quick else _SWAPPED)}


async def _hot_swap(bench: Bench, size: str) -> dict[str, Any]:
    catalogue = await bench.catalogue(size)
    old = catalogue.bundle
    folder = bench.folder / f"swap-{size}"
    new = renamed(
        old, catalogue.bundle.directory.parent / f"swap-{time.time_ns()}", f"{old.manifest.model_version}-next"
    )
    try:
        await publish(catalogue.users, new, bench.store.url, states=False)
        registry = await asyncio.to_thread(MlflowRegistry, folder)
        versions = [
            await asyncio.to_thread(
                registry.register, bundle.directory, model_name="bench", model_version=bundle.manifest.model_version
            )
            for bundle in (old, new)
        ]
    finally:
        for path in new.directory.iterdir():
            path.unlink()
        new.directory.rmdir()
    await asyncio.to_thread(registry.move_alias, "bench", "champion", versions[0])
    settings = {"registry_uri": registry.uri, "model_name": "bench", "registry_poll_seconds": 0.5}
    moved_at = 0.0

    async def move_alias() -> None:
        nonlocal moved_at
        moved_at = time.time()
        await asyncio.to_thread(registry.move_alias, "bench", "champion", versions[1])

    async with bench.tandem(**settings) as tandem:
        # A large bundle is copied, hashed and opened twice before it is swapped in. The load must last until then.
        seconds = bench.seconds(45 if catalogue.spec.num_items > 500_000 else 30, 10)
        observed = await _observe(
            bench, tandem, catalogue, move_alias, seconds=seconds, event_at_seconds=bench.seconds(10, 3)
        )
    report = observed.summary()
    with_new = [s.due for s in observed.samples if s.model_version == new.manifest.model_version]
    report["alias_moved_second"] = round(moved_at - observed.begin, 2)
    report["swapped_second"] = None
    if with_new:
        swapped_at = min(with_new)
        low, high = swapped_at - SWAP_WINDOW_SECONDS / 2, swapped_at + SWAP_WINDOW_SECONDS / 2
        report["swapped_second"] = round(swapped_at - observed.begin, 2)
        report["p99_ms_around_swap"] = observed.p99_ms(low, high)
        report["p99_ms_from_alias_to_swap"] = observed.p99_ms(moved_at, low)
        report["p99_ms_before_alias_moved"] = observed.p99_ms(observed.begin, moved_at)
        report["p99_ms_outside"] = observed.p99_ms(low, high, inside=False)
    say(f"  {size}: swapped {report['swapped_second']} s, {report.get('p99_ms_around_swap')} ms around it")
    return report


async def store_killed(bench: Bench) -> dict[str, Any]:
    """Kills the store with SIGKILL and restarts it with its data after 5 seconds."""
    catalogue = await bench.catalogue(_CATALOGUE)
    times: dict[str, float] = {}
    store = Valkey(bench.folder / "killed-store")
    await store.start()
    try:
        await publish(catalogue.users, catalogue.bundle, store.url)

        async def outage() -> None:
            times["killed"] = time.time()
            await store.kill()
            await asyncio.sleep(bench.seconds(STORE_OUTAGE_SECONDS, 1))
            await store.start()
            times["returned"] = time.time()

        async with bench.tandem(catalogue, store_url=store.url) as tandem:
            observed = await _observe(
                bench,
                tandem,
                catalogue,
                outage,
                seconds=bench.seconds(30, 5),
                event_at_seconds=bench.seconds(10, 1),
            )
    finally:
        await store.kill()
    outage_samples = [s for s in observed.samples if times["killed"] <= s.due < times["returned"] and s.code == OK]
    slowest = max((s.seconds for s in outage_samples), default=0.0)
    return {
        **observed.summary(),
        "killed_second": round(times["killed"] - observed.begin, 2),
        "returned_second": round(times["returned"] - observed.begin, 2),
        "deadline_ms": DEADLINE_MS,
        "slowest_answer_during_outage_ms": round(1e3 * slowest, 1),
        "p99_ms_during_outage": observed.p99_ms(times["killed"], times["returned"]),
        "seconds_until_full_answers": seconds_until_full_answers(observed.samples, times["returned"]),
    }


async def registry_down(bench: Bench) -> dict[str, Any]:
    """Renames the registry's database away for the rest of the run."""
    catalogue = await bench.catalogue(_CATALOGUE)
    registry = await asyncio.to_thread(MlflowRegistry, bench.folder / "registry-down")
    version = catalogue.bundle.manifest.model_version
    await asyncio.to_thread(
        registry.register,
        catalogue.bundle.directory,
        model_name="bench",
        model_version=version,
        alias="champion",
    )
    moved_at = 0.0

    async def take_away() -> None:
        nonlocal moved_at
        moved_at = time.time()
        registry.database.rename(registry.database.with_suffix(".away"))

    settings = {"registry_uri": registry.uri, "model_name": "bench", "registry_poll_seconds": 0.5}
    async with bench.tandem(**settings) as tandem:
        observed = await _observe(
            bench, tandem, catalogue, take_away, seconds=bench.seconds(30, 5), event_at_seconds=bench.seconds(10, 1)
        )
    end = observed.begin + observed.seconds
    return {
        **observed.summary(),
        "gone_second": round(moved_at - observed.begin, 2),
        "p99_ms_before": observed.p99_ms(observed.begin, moved_at),
        "p99_ms_after": observed.p99_ms(moved_at, end),
    }


async def worker_killed(bench: Bench) -> dict[str, Any]:
    """Kills one of two workers with SIGKILL. Both workers and the replacement share the served core.

    h2load reconnects every second, see `Load.reconnect_seconds`: requests that it would have sent on a lost connection
    until then are missing from its answers. The probe reconnects at once and shows what a caller notices.
    """
    catalogue = await bench.catalogue(_CATALOGUE)
    times: dict[str, float] = {}
    async with bench.tandem(catalogue, move_supervisor=False, workers=2) as tandem:
        before = tandem.workers()
        if len(before) < 2:
            say("  the server has one worker: nothing is measured")
            return {"skipped": "the server has no TANDEM_WORKERS"}

        async def kill() -> None:
            times["killed"] = time.time()
            os.kill(before[0], signal.SIGKILL)
            await wait_until(lambda: len(set(tandem.workers()) - {before[0]}) == 2, "a new worker")
            times["started"] = time.time()

        observed = await _observe(
            bench,
            tandem,
            catalogue,
            kill,
            seconds=bench.seconds(30, 10),
            event_at_seconds=bench.seconds(10, 2),
            reconnect_seconds=1.0,
        )
    failed = [sample.due for sample in observed.samples if sample.code != OK]
    return {
        **observed.summary(),
        "killed_second": round(times["killed"] - observed.begin, 2),
        "answers_missing": max(
            0, round(bench.seconds(RATE, 200) * observed.result.load.seconds) - len(observed.result.starts)
        ),
        "new_worker_started_second": round(times["started"] - observed.begin, 2),
        "probe_errors_until_second": round(max(failed) - observed.begin, 2) if failed else None,
    }


def seconds_until_full_answers(samples: list[Sample], returned_at: float) -> float | None:
    """Seconds from `returned_at` to the start of the first second with only full answers, or None."""
    later = sorted((s for s in samples if s.due >= returned_at), key=lambda s: s.due)
    for index, sample in enumerate(later):
        within = [s for s in later[index:] if s.due < sample.due + 1.0]
        ends = later[-1].due >= sample.due + 0.9
        if ends and all(s.code == OK and not s.degraded_reasons for s in within):
            return round(sample.due - returned_at, 2)
    return None
