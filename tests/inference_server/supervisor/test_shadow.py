"""A shadow of a real server: opened by itself, compared, reported, and replaced when its alias moves."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import httpx
import pytest

from inference_server.core.degradation import Degraded
from inference_server.core.errors import CommandFailed, SettingsError
from inference_server.core.settings import Settings
from inference_server.core.shadow_outcome import ShadowOutcome
from inference_server.supervisor.server_view import ServerView
from inference_server.supervisor.shadow_report import shadow_report, verdict
from inference_server.telemetry.shadow_counts import ShadowCounts, Side
from inference_server.telemetry.shadow_summary import shadow_summaries
from inference_server.telemetry.statistics import Statistics
from tandem.contract.bundle import Bundle
from tandem.v1 import recommendation_pb2 as pb
from tests.inference_server.conftest import build
from tests.support.serving import MlflowRegistry, Server, serve, server_environment, valkey, wait_until
from tests.support.tiny_bundle import state_of


async def run_shadow(directory: Path, **settings: object) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "inference_server", "shadow"),
        cwd=directory,
        env=server_environment(directory, **settings),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    stdout, stderr = await process.communicate()
    return process.returncode or 0, stdout.decode(), stderr.decode()


async def compared(server: Server, count: int, **fields: object) -> pb.ShadowComparison:
    """Asks until `count` requests are compared, and then finds the shadow with these fields."""

    async def enough() -> pb.ShadowComparison | None:
        answer = await server.recommend(user_id="u", num_items=10)
        assert list(answer.degraded_reasons) == []
        for shadow in (await server.status()).shadows:
            fits = all(getattr(shadow, name) == value for name, value in fields.items())
            if fits and shadow.requests["compared"] >= count:
                return shadow
        return None

    found: pb.ShadowComparison = await wait_until(enough, f"{count} comparisons")
    return found


@pytest.mark.process
async def test_a_shadow_is_opened_compared_and_reported(
    tmp_path: Path, registry: MlflowRegistry, model_name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    def built(version: str, seed: int) -> Bundle:
        return build(tmp_path_factory.mktemp("bundles") / version, model_version=version, seed=seed)

    registry.register(built("one", 1).directory, model_name=model_name, model_version="one", alias="champion")
    registry.register(built("two", 2).directory, model_name=model_name, model_version="two", alias="challenger")
    async with valkey(tmp_path / "valkey") as store:
        await store.put("u", state_of(["item-1", "item-2"]))
        settings = {
            "registry_uri": registry.uri,
            "model_name": model_name,
            "store_url": store.url,
            "shadow_model": "challenger,absent",
            "shadow_share": 1,
            "deadline_ms": 30_000,
        }
        async with serve(tmp_path / "server", **settings) as server:
            shadow = await compared(server, 5, model="challenger", model_version="two")
            assert shadow.own_version == "one"
            assert 0.0 <= shadow.overlap < 1.0
            assert 0.0 <= shadow.rank_biased_overlap < 1.0
            assert shadow.own.score.count == shadow.shadow.score.count >= 50
            assert shadow.own.seconds.count == shadow.shadow.seconds.count >= 1
            assert shadow.own.seconds.p99 >= shadow.own.seconds.p50 > 0.0
            # The same over HTTP, and as metrics of the server.
            (listening,) = [line for line in server.logs if line["event"] == "server_listening"]
            async with httpx.AsyncClient(trust_env=False) as client:
                url = f"http://127.0.0.1:{listening['http_port']}/v1/status"
                status = (await client.get(url)).raise_for_status().json()
            by_name = {entry["model"]: entry for entry in status["shadows"]}
            assert by_name["challenger"]["model_version"] == "two"
            assert set(by_name["absent"]["requests"]) == {"not_in_force"}
            labels = 'model="challenger",model_version="two",own_version="one"'
            text = await server.metrics()
            assert f"tandem_shadow_overlap_count{{{labels}}}" in text
            assert 'tandem_shadow_requests_total{model="challenger",model_version="two",outcome="compared"' in text
            # Callers are answered by the own model alone, and nothing of theirs is degraded.
            current = await server.status()
            assert (current.model_version, dict(current.degraded_by_reason)) == ("one", {})
            code, printed, _ = await run_shadow(tmp_path / "server", **settings)
            assert code == 0
            first, second, third, *_ = printed.splitlines()
            assert first == "challenger (two) in the shadow of champion (one), 1 of the requests"
            assert "of the items alike" in second
            assert "; 0 of " in second
            assert third.startswith("requests: compared ")
            assert "absent (not in force) in the shadow of champion (one)" in printed
            assert "has no alias 'absent'" in printed
            # The alias moves: what was counted of the version before is gone.
            registry.register(
                built("three", 3).directory, model_name=model_name, model_version="three", alias="challenger"
            )
            await compared(server, 1, model="challenger", model_version="three")
            assert {entry.model_version for entry in (await server.status()).shadows} == {"three", ""}
            assert f"tandem_shadow_overlap_count{{{labels}}}" not in await server.metrics()
        code, printed, errors = await run_shadow(tmp_path / "server", **settings)
        assert (code, printed) == (1, "")
        assert errors.startswith("no server runs with the data folder")


@pytest.mark.parametrize(
    ("variables", "complaint"),
    [
        ({"TANDEM_SHADOW_SHARE": "1.5"}, "TANDEM_SHADOW_SHARE"),
        ({"TANDEM_SHADOW_SHARE": "-0.1"}, "TANDEM_SHADOW_SHARE"),
        ({"TANDEM_SHADOW_MODEL": "a b"}, "TANDEM_SHADOW_MODEL"),
        ({"TANDEM_SHADOW_MODEL": "x,champion"}, "names 'champion', the server's own model"),
        ({"TANDEM_SHADOW_MODEL": "x", "TANDEM_BUNDLE_PATH": "."}, "needs a registry"),
    ],
)
def test_settings_that_cannot_be(variables: dict[str, str], complaint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("TANDEM_")]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=complaint) as raised:
        Settings.load()
    assert "\n" not in str(raised.value)


def counted(*, compared: int, failed: int, degraded: int, overlap: float, ratio: float) -> Statistics:
    statistics = Statistics()
    counts = ShadowCounts(statistics, model="challenger", model_version="two", own_version="one")
    for _ in range(compared):
        counts.count(ShadowOutcome.COMPARED)
        counts.overlap.observe(overlap)
        counts.rank_biased_overlap.observe(overlap)
        counts.count_lists(same_first_item=True, same_list=False, shorter=False)
        counts.seconds[Side.OWN].observe(0.001)
        counts.seconds[Side.SHADOW].observe(0.001 * ratio)
        counts.slowdown.observe(ratio)
    for _ in range(failed):
        counts.count(ShadowOutcome.FAILED)
    for _ in range(degraded):
        counts.count(ShadowOutcome.DEGRADED)
        counts.count_degraded(Degraded.RANKER_FAILED)
    return statistics


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"compared": 1200, "failed": 3, "degraded": 1, "overlap": 0.62, "ratio": 1.8},
            "62% of the items alike (rank-biased 62%); the same first item in 100%; slower by 1.8x (1,200 "
            "batches timed); 3 of 1,204 failed; 1 of 1,204 degraded",
        ),
        (
            {"compared": 10, "failed": 0, "degraded": 0, "overlap": 1.0, "ratio": 1.02},
            "100% of the items alike (rank-biased 100%); the same first item in 100%; as fast (10 batches timed); "
            "0 of 10 failed",
        ),
        (
            {"compared": 10, "failed": 0, "degraded": 0, "overlap": 0.5, "ratio": 0.5},
            "50% of the items alike (rank-biased 50%); the same first item in 100%; faster by 2.4x (10 batches timed); "
            "0 of 10 failed",
        ),
        (
            {"compared": 0, "failed": 7, "degraded": 2, "overlap": 0.0, "ratio": 1.0},
            "cannot say: no answer was compared yet, and 7 of 9 failed",
        ),
    ],
)
def test_the_verdict_in_words(fields: dict[str, float], expected: str) -> None:
    (summary,) = shadow_summaries(counted(**fields))  # type: ignore[arg-type]
    assert verdict(summary) == expected


def test_a_server_without_a_shadow_says_what_to_set() -> None:
    with pytest.raises(CommandFailed, match="set TANDEM_SHADOW_MODEL"):
        list(shadow_report(ServerView(statistics=Statistics()), (), share=0.05))
