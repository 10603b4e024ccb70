"""Experiments of a real Unleash, on its real PostgreSQL: the same variants as its official client, kill switches, and
answers while it is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from UnleashClient.cache import FileCache
from UnleashClient.clients.unleash_client import UnleashClient

from tandem.contract.bundle import Bundle
from tandem.v1 import recommendation_pb2 as pb
from tests.support.secrets import secret
from tests.support.serving import Server, serve, wait_until
from tests.support.unleash import Unleash, make_flag, set_variants, switch, unleash

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.process]

NUM_USERS = 2000
HOME = [{"contextName": "scenario", "operator": "IN", "values": ["home"]}]
POLICIES = "scenarios:\n  home: {}\n  home-new: {exploration: 0.5}\n"


@pytest.fixture(scope="module")
def flags() -> Iterator[Unleash]:
    with unleash() as server:
        make_flag(server, "tandem.holdout", rollout=10)
        make_flag(
            server,
            "tandem.home",
            {"experiment": "exploring", "arm": "control"},
            {"experiment": "exploring", "arm": "new", "scenario": "home-new"},
            {},
            rollout=60,
            constraints=HOME,
            parent="tandem.holdout",
        )
        make_flag(server, "tandem.colours", {"experiment": "c", "arm": "x"}, {"experiment": "c", "arm": "y"})
        make_flag(server, "checkout.button", {"colour": "red", "arm": "red"})  # somebody else's
        yield server


@pytest.fixture(scope="module")
def settings(flags: Unleash, bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("settings")
    (folder / "token").write_text(flags.backend_token + "\n")
    (folder / "policies.yaml").write_text(POLICIES)
    return {
        "bundle_path": bundle.directory,
        "store_url": "redis://127.0.0.1:1/0",
        "policies_file": folder / "policies.yaml",
        "unleash_url": flags.url,
        "unleash_token_file": folder / "token",
        "unleash_refresh_seconds": 1,
        "workers": 2,
    }


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def server(settings: dict[str, Any], data_dir: Path) -> AsyncIterator[Server]:
    async with serve(data_dir, **settings) as running:
        await running.log("experiments_changed", source="unleash")
        yield running


def arms(response: pb.RecommendResponse) -> dict[str, str]:
    assert all(assignment.exposed for assignment in response.assignments)
    return {assignment.experiment: assignment.arm for assignment in response.assignments}


async def arms_in_all_workers(server: Server, **fields: Any) -> list[dict[str, str]]:
    """What each of several connections says; the kernel spreads them over the workers."""
    found = []
    for _ in range(6):
        async with server.connection() as connection:
            found.append(arms(await connection.recommend(**fields)))
    return found


async def test_the_same_variants_as_the_official_client(flags: Unleash, server: Server, tmp_path: Path) -> None:
    client = UnleashClient(
        flags.url,
        "front-end",
        custom_headers={"Authorization": flags.backend_token},
        disable_metrics=True,
        cache=FileCache("front-end", directory=str(tmp_path)),
    )
    await asyncio.to_thread(client.initialize_client)
    try:
        answers = await asyncio.gather(
            *(server.recommend(user_id=f"user-{number}", scenario="home", num_items=1) for number in range(NUM_USERS))
        )
        for number, answer in enumerate(answers):
            context = {"userId": f"user-{number}", "properties": {"scenario": "home"}}
            expected = {}
            for flag, experiment in (("tandem.colours", "c"), ("tandem.home", "exploring")):
                variant = client.get_variant(flag, context)
                if variant["enabled"] and "payload" in variant:
                    expected[experiment] = variant["name"]
            assert arms(answer) == expected
        shares = [sum(arms(answer).get("exploring") == arm for answer in answers) for arm in ("control", "new")]
        assert all(abs(share / NUM_USERS - 0.9 * 0.6 / 3) < 0.04 for share in shares)
    finally:
        await asyncio.to_thread(client.destroy)


async def test_status_and_metrics_say_which_table_is_in_force(server: Server) -> None:
    status = await server.status()
    assert status.experiments.source == "unleash"
    assert sorted(status.experiments.experiments) == ["c", "exploring"]
    assert status.experiments.refusal == ""
    assert status.dependencies["unleash"] == "up"
    page = await server.metrics()
    assert f'tandem_experiments_info{{fingerprint="{status.experiments.fingerprint}",source="unleash"}} 1.0' in page
    assert 'tandem_dependency_up{dependency="unleash"} 1.0' in page

    async def confirmed_again() -> bool:
        return (await server.status()).experiments.age_seconds < status.experiments.age_seconds

    await asyncio.sleep(0.1)
    await wait_until(confirmed_again, "Unleash says that nothing has changed")


async def test_a_kill_switch_is_seen_within_seconds(flags: Unleash, server: Server) -> None:
    assert all("c" in found for found in await arms_in_all_workers(server, user_id="u"))
    switch(flags, "tandem.colours", on=False)

    async def off() -> bool:
        return not any(await arms_in_all_workers(server, user_id="u"))

    await wait_until(off, "the flag is off in every worker")
    switch(flags, "tandem.colours", on=True)

    async def on() -> bool:
        return all("c" in found for found in await arms_in_all_workers(server, user_id="u"))

    await wait_until(on, "the flag is on in every worker")


async def test_a_mistake_changes_nothing_and_is_named(flags: Unleash, server: Server) -> None:
    before = (await server.status()).experiments
    wrong = {"experiment": "c", "arm": "y", "scenario": "hone"}
    set_variants(flags, "tandem.colours", {"experiment": "c", "arm": "x"}, wrong)
    refused = await server.log("experiments_refused")
    assert refused["reason"].startswith(
        "Unleash: flag tandem.colours: strategies.0.variants.1.payload.value.scenario: "
    )
    assert "there is no policy of scenario 'hone' (configured: home, home-new)" in refused["reason"]
    status = (await server.status()).experiments
    assert (status.fingerprint, status.source) == (before.fingerprint, "unleash")
    assert status.refusal == refused["reason"]
    assert arms(await server.recommend(user_id="u"))
    set_variants(flags, "tandem.colours", {"experiment": "c", "arm": "x"}, {"experiment": "c", "arm": "y"})

    async def good_again() -> bool:
        return not (await server.status()).experiments.refusal

    await wait_until(good_again, "the table is good again")


async def test_the_last_table_answers_while_unleash_is_away_and_after_a_cold_start(
    flags: Unleash, server: Server, settings: dict[str, Any], data_dir: Path, tmp_path: Path
) -> None:
    before = arms(await server.recommend(user_id="u"))
    assert before
    flags.kill()

    async def is_down() -> bool:
        return (await server.status()).dependencies["unleash"] == "down"

    await wait_until(is_down, "status says that Unleash is away")
    status = await server.status()
    assert status.experiments.source == "unleash"
    assert "Connection refused" in status.problems["unleash"]
    assert arms(await server.recommend(user_id="u")) == before
    assert 'tandem_dependency_up{dependency="unleash"} 0.0' in await server.metrics()
    await server.stop()

    # Cold starts without Unleash: with the table on disk; and without one, and with a token that is not Unleash's.
    token = tmp_path / "token"
    token.write_text(secret("default:development.another-secret"))
    without = {**settings, "unleash_token_file": token}
    async with serve(data_dir, **settings) as restarted, serve(tmp_path / "empty", **without) as cold:
        status = await restarted.status()
        assert status.experiments.source == "disk"
        assert status.experiments.age_seconds > 0
        assert arms(await restarted.recommend(user_id="u")) == before
        status = await cold.status()
        assert (status.experiments.source, list(status.experiments.experiments)) == ("", [])
        answer = await cold.recommend(user_id="u")
        assert answer.items
        assert not answer.assignments

        await asyncio.to_thread(flags.start)
        await until_confirmed(restarted)
        assert arms(await restarted.recommend(user_id="u")) == before

        async def refused() -> bool:
            return "401" in (await cold.status()).problems.get("unleash", "")

        await wait_until(refused, "status says that the token is refused")
        token.write_text(flags.backend_token)
        await until_confirmed(cold)
        assert arms(await cold.recommend(user_id="u")) == before
        for running in (server, restarted, cold):
            assert not running.unparsed
            assert flags.backend_token not in str(running.logs)


async def until_confirmed(server: Server) -> None:
    async def confirmed() -> bool:
        return (await server.status()).experiments.source == "unleash"

    await wait_until(confirmed, "Unleash confirms the table")
