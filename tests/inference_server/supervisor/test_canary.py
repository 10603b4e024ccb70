"""Canaries on real servers: planted bad versions are taken back, a good one becomes the champion."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from deploy.local.ports import free_port
from inference_server.canary.plan import Plan
from tests.support.canaries import CHAMPION, canary_until, operate, register_challenger, register_champion, traffic
from tests.support.serving import MlflowRegistry, Server, serve, server_environment, valkey, wait_until
from tests.support.tiny_bundle import build_tiny_bundle
from tests.support.webhook import webhook

pytestmark = pytest.mark.process

QUICK = Plan(steps=(10.0, 50.0, 100.0), step_seconds=0.0, step_answers=150)
ENDLESS = Plan(steps=(50.0, 100.0), step_seconds=3600.0)


async def over(server: Server, experiment: str) -> Any:
    return await canary_until(
        server, lambda canary: canary.experiment == experiment and canary.state != "running", f"{experiment} is over"
    )


async def lines_of(server: Server, event: str, experiment: str) -> list[dict[str, Any]]:
    await server.log(event, experiment=experiment)
    return [line for line in server.logs if line["event"] == event and line["experiment"] == experiment]


async def canary_command(data_dir: Path, *arguments: str, **settings: object) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "inference_server", "canary", *arguments),
        env=server_environment(data_dir, **settings),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, errors = await process.communicate()
    return process.returncode or 0, out.decode(), errors.decode()


async def test_planted_versions_are_taken_back_and_a_good_one_becomes_the_champion(
    registry: MlflowRegistry, model_name: str, tmp_path: Path
) -> None:
    champion = register_champion(registry, tmp_path, model_name=model_name)
    dead = f"json://dead:ohGh4aiThoh0@127.0.0.1:{free_port()}/hook"
    with webhook("wePeeBah7quo") as (url, arrived):
        urls = tmp_path / "urls"
        urls.write_text(f"# the operators\n{url}\n{dead}\n")
        settings: dict[str, object] = {
            "registry_uri": registry.uri,
            "model_name": model_name,
            "events_durability": "memory",
            "events_deadline_ms": 60_000,
        }
        async with (
            valkey(tmp_path / "store") as store,
            serve(tmp_path / "one", store_url=store.url, notify_urls_file=urls, **settings) as server,
            serve(tmp_path / "two", store_url=store.url, **settings) as other,
        ):
            async with traffic(server) as seen:
                for kind, words, most_harmed in (
                    ("empty", ("short: ", "run: "), 200),
                    ("nan", ("not_finite: ",), 100),
                    ("slow", ("slow: ", "degraded: "), 1_000),
                    ("clicks", ("clicks: ",), 5_000),
                ):
                    number = register_challenger(registry, tmp_path, kind, model_name=model_name)
                    experiment = f"canary-{number}"
                    (started,) = await operate(tmp_path / "one", "canary-start", plan=QUICK, force=True)
                    assert started == (
                        f"version {number} ({kind}) is a canary: {experiment}, 10,50,100 % of the users, compared with "
                        f"version {champion}"
                    )
                    ended = await over(server, experiment)
                    assert (ended.state, ended.percent, ended.model_version) == ("taken_back", 0.0, kind), kind
                    assert ended.reason.startswith(words), kind
                    assert 0 < ended.harmed_answers <= min(ended.answers, most_harmed), kind
                    assert 0 < ended.harmed_share < 0.5, kind
                    # Nobody is answered by it any more, and the tags say so to the other server.
                    (line,) = await lines_of(server, "canary_taken_back", experiment)
                    assert (line["made_here"], line["reason"]) == (True, ended.reason)
                    (line,) = await lines_of(other, "canary_taken_back", experiment)
                    assert (line["made_here"], line["reason"]) == (False, ended.reason)
                    assert (await other.status()).canary.state == "taken_back"

                    async def gone(kind: str = kind) -> bool:
                        return not seen.by_version.get(kind)

                    await wait_until(gone, f"all users are answered by the champion again after {kind}")
                assert registry.aliased(model_name, "champion") == champion

                number = register_challenger(registry, tmp_path, "good", model_name=model_name)
                await operate(tmp_path / "one", "canary-start", plan=QUICK, force=True)
                promoted = await over(server, f"canary-{number}")
                assert (promoted.state, promoted.reason, promoted.step) == ("promoted", "it has passed all steps", 3)
                assert promoted.harmed_answers <= 0.05 * promoted.answers
                steps = await lines_of(server, "canary_step", f"canary-{number}")
                assert [line["percent"] for line in steps] == [50.0, 100.0]
                assert (await other.log("canary_promoted", experiment=f"canary-{number}"))["made_here"] is False
            assert registry.aliased(model_name, "champion") == number
            assert registry.aliased(model_name, "champion-previous") == champion
            for each in (server, other):
                await each.log("model_serving", registry_version=number)

            async def is_the_own_model() -> bool:
                answer = await server.recommend(user_id="user-1", recent_item_ids=["item-1"])
                assert answer.model_version == "good"
                return answer.variant == "champion" and not answer.assignments

            await wait_until(is_the_own_model, "the champion answers, and the canary's layer has gone")

            page = await server.metrics()
            for sample in (
                'tandem_canary_moves_total{move="taken_back"} 4.0',
                'tandem_canary_moves_total{move="started"} 5.0',
                'tandem_canary_moves_total{move="promoted"} 1.0',
                "tandem_canary_step 3.0",
                f'tandem_canary_info{{experiment="canary-{number}",model_version="good",registry_version="{number}",'
                'state="promoted"} 1.0',
            ):
                assert sample in page
            # Every move reached the webhook that answers, and the dead one is counted.
            titles = [message["title"] for message in arrived]
            assert sum("was taken back" in title for title in titles) == 4
            assert sum("started by tester@test" in title for title in titles) == 5
            assert f"Tandem canary: version {number} (good) is the champion, in place of version {champion}" in titles
            assert any("harmed" in message["message"] for message in arrived)

            async def dead_is_counted() -> bool:
                return 'tandem_notifications_total{outcome="failed"} 0.0' not in await server.metrics()

            await wait_until(dead_is_counted, "the dead webhook is counted")
            failed = await server.log("notification_failed")
            assert failed["reason"] == "channel 2: it did not take the message"
        texts = json.dumps(server.logs) + "".join(server.unparsed)
        assert "wePeeBah7quo" not in texts
        assert "ohGh4aiThoh0" not in texts


@pytest.fixture
async def idle(registry: MlflowRegistry, model_name: str, tmp_path: Path) -> AsyncIterator[tuple[Server, str]]:
    """A server with a champion, version 1, and a challenger, version 2, and nobody who asks."""
    register_champion(registry, tmp_path, model_name=model_name)
    register_challenger(registry, tmp_path, "good", model_name=model_name)
    async with serve(
        tmp_path / "data", registry_uri=registry.uri, model_name=model_name, store_url="redis://127.0.0.1:1/0"
    ) as server:
        yield server, model_name


async def test_an_operators_words(idle: tuple[Server, str], registry: MlflowRegistry, tmp_path: Path) -> None:
    server, name = idle
    data_dir = tmp_path / "data"
    assert await operate(data_dir, "canary-status") == ["there has been no canary"]
    assert await operate(data_dir, "canary-stop") == ["refused: no canary is running"]
    assert await operate(data_dir, "canary-promote") == ["refused: no canary is running"]
    for model, words in (
        ("absent", f"the registered model '{name}' has no alias 'absent'"),
        ("77", f"the registered model '{name}' has no version 77"),
        ("champion", "version 1 is the champion already"),
    ):
        refused = await operate(data_dir, "canary-start", plan=ENDLESS, model=model, force=True)
        assert refused == [f"refused: {words}"]
    (refused_by_gate,) = await operate(data_dir, "canary-start", plan=ENDLESS)
    assert refused_by_gate.startswith("refused: version 2: the gate has not judged it. Run ")
    assert len(await operate(data_dir, "canary-start", plan=ENDLESS, force=True)) == 1
    running = await canary_until(server, lambda canary: canary.percent == 50.0, "half of the users are in it")
    assert (running.state, running.step, running.started_by, running.problem) == ("running", 1, "tester@test", "")
    (again,) = await operate(data_dir, "canary-start", plan=ENDLESS, force=True)
    assert again == "refused: version 2 is a canary already (step 1 of 2): stop or promote it first"
    answers = [await server.recommend(user_id=f"user {number}") for number in range(40)]
    arms = {
        (arm.arm, arm.experiment, arm.exposed, answer.model_version) for answer in answers for arm in answer.assignments
    }
    assert arms == {("canary", "canary-2", True, "good"), ("control", "canary-2", True, "champion")}
    # By the command line, as an operator does it.
    settings = {"registry_uri": registry.uri, "model_name": name}
    status, out, _ = await canary_command(data_dir, "stop", **settings)
    assert status == 0
    assert out.splitlines() == [
        "no user of this server is answered by the canary canary-2 any more",
        "the registry says so to the other servers",
    ]
    assert not any([(await server.recommend(user_id=f"user {number}")).assignments for number in range(10)])
    assert (await server.log("canary_stopped"))["reason"].startswith("stopped by ")
    # The second attempt mixes the users anew; an operator may end it early.
    await operate(data_dir, "canary-start", plan=ENDLESS, model="2", force=True)
    await canary_until(server, lambda canary: canary.percent == 50.0, "half of the users are in it")
    (promoted,) = await operate(data_dir, "canary-promote")
    assert promoted == "version 2 is the champion, in place of version 1"
    await server.log("model_serving", registry_version="2")
    shown = (await operate(data_dir, "canary-status"))[0]
    assert shown.startswith("canary-2.2: version 2 (good), compared with version 1, started ")
    assert shown.endswith("promoted, step 1 of 2, 50 % of the users: promoted by tester@test, at 50 % of the users")


async def test_the_command_line_without_a_server(registry: MlflowRegistry, model_name: str, tmp_path: Path) -> None:
    register_champion(registry, tmp_path, model_name=model_name)
    register_challenger(registry, tmp_path, "good", model_name=model_name)
    settings = {"registry_uri": registry.uri, "model_name": model_name}
    status, out, _ = await canary_command(tmp_path / "data", "start", "--force", "--steps", "2,100", **settings)
    assert status == 0
    assert out.splitlines() == [
        "version 2 (good) is a canary: canary-2, 2,100 % of the users, compared with version 1",
        "no server runs with this data folder: those that follow the registry begin at their next poll",
    ]
    status, _, errors = await canary_command(tmp_path / "data", "start", "--steps", "5,1,100", **settings)
    assert (status, errors) == (1, "inference_server: steps: shares must ascend (got 5,1,100)\n")
    folder = {"bundle_path": tmp_path / "champion"}
    status, _, errors = await canary_command(tmp_path / "data", "status", **folder)
    assert (status, errors) == (
        1,
        "this server serves a bundle folder and has no registry: a canary needs one\n",
    )


async def test_a_withdrawal_outlives_the_registry_and_the_server(
    idle: tuple[Server, str], registry: MlflowRegistry, tmp_path: Path
) -> None:
    server, name = idle
    data_dir = tmp_path / "data"
    await operate(data_dir, "canary-start", plan=ENDLESS, force=True)
    await canary_until(server, lambda canary: canary.percent == 50.0, "half of the users are in it")
    away = registry.database.with_suffix(".away")
    registry.database.rename(away)
    try:
        problem = await canary_until(server, lambda canary: bool(canary.problem), "the registry is away")
        assert problem.percent == 50.0
        assert problem.problem.startswith("the registry cannot be asked, the canary stays as it is: ")
        stopped = await operate(data_dir, "canary-stop")
        assert stopped == [
            "no user of this server is answered by the canary canary-2 any more",
            "refused: the registry cannot be written: other servers hear of it when it can",
        ]
        assert (await server.status()).canary.state == "taken_back"
        await server.stop()
    finally:
        away.rename(registry.database)
    async with serve(
        data_dir, registry_uri=registry.uri, model_name=name, store_url="redis://127.0.0.1:1/0"
    ) as restarted:
        ended = await over(restarted, "canary-2")
        assert (ended.state, ended.reason, ended.answers) == ("taken_back", "stopped by tester@test", 0)
        await restarted.log("canary_stopped", made_here=True)
        assert not (data_dir / "canary.json").exists()
        assert not any([(await restarted.recommend(user_id=f"user {number}")).assignments for number in range(20)])


async def test_an_alias_that_somebody_deletes_leaves_no_user_to_the_canary(
    idle: tuple[Server, str], registry: MlflowRegistry, tmp_path: Path
) -> None:
    server, name = idle
    await operate(tmp_path / "data", "canary-start", plan=ENDLESS, force=True)
    await canary_until(server, lambda canary: canary.percent == 50.0, "half of the users are in it")
    registry.drop_alias(name, "champion-canary")

    async def is_gone() -> bool:
        answers = [await server.recommend(user_id=f"user {number}") for number in range(20)]
        return not any(answer.assignments for answer in answers) and not (await server.status()).canary.experiment

    await wait_until(is_gone, "nobody is in a canary")
    assert await operate(tmp_path / "data", "canary-status") == ["there has been no canary"]


async def test_a_version_is_the_canary_of_one_alias_at_a_time(
    idle: tuple[Server, str], registry: MlflowRegistry, tmp_path: Path
) -> None:
    server, name = idle
    other = build_tiny_bundle(tmp_path / "other", CHAMPION)
    registry.register(other.directory, model_name=name, model_version="other", alias="champion-de")
    settings = {"registry_uri": registry.uri, "model_name": name, "model_alias": "champion-de"}
    await operate(tmp_path / "data", "canary-start", plan=ENDLESS, force=True)
    status, _, errors = await canary_command(tmp_path / "de", "start", "--force", **settings)
    assert (status, errors) == (1, "version 2 is a canary of the alias champion until that has ended\n")
    await operate(tmp_path / "data", "canary-stop")
    status, out, _ = await canary_command(tmp_path / "de", "start", "--force", "--steps", "2,100", **settings)
    assert (status, out.splitlines()[0]) == (
        0,
        "version 2 (good) is a canary: canary-2.2, 2,100 % of the users, compared with version 3",
    )
    # The servers of the other alias leave it alone.
    await server.log("canary_stopped", experiment="canary-2")
    assert await operate(tmp_path / "data", "canary-status") == ["there has been no canary"]
    status, out, _ = await canary_command(tmp_path / "de", "status", **settings)
    assert status == 0
    assert out.startswith("canary-2.2: version 2 (good), compared with version 3, started ")
    assert out.endswith("running, step 1 of 2, 2 % of the users\n")
