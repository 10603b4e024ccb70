"""Experiments of a file, from the file to the answers of a real server."""

from __future__ import annotations

import json
import os
import urllib.request
from pathlib import Path

import grpc
import pytest

from tandem.contract.bundle import Bundle
from tandem.v1 import recommendation_pb2 as pb
from tests.support.serving import Server, serve, wait_until

pytestmark = pytest.mark.process

POLICIES = """
scenarios:
  home: {}
  home-new: {exploration: 0.5}
"""

EXPERIMENTS = """
features:
  - name: homepage
    strategies:
      - constraints: [{contextName: scenario, operator: IN, values: [home]}]
        parameters: {rollout: 100}
        variants:
          - {name: control, payload: {type: json, value: {experiment: exploring}}}
          - {name: new, payload: {type: json, value: {experiment: exploring, scenario: home-new}}}
"""


def replace_file(path: Path, text: str) -> None:
    """As `mv` does it."""
    staged = path.with_suffix(".staged")
    staged.write_text(text)
    os.replace(staged, path)  # noqa: PTH105


def arm(response: pb.RecommendResponse) -> str:
    assert len(response.assignments) == 1
    assert response.assignments[0].experiment == "exploring"
    assert response.assignments[0].exposed
    return response.assignments[0].arm


def explores(response: pb.RecommendResponse) -> bool:
    return any(item.reason.propensity < 1 for item in response.items)


async def users_of(server: Server) -> dict[str, str]:
    """A user of each arm."""
    found: dict[str, str] = {}
    for number in range(60):
        response = await server.recommend(user_id=f"user-{number}", scenario="home", explain=True)
        found.setdefault(arm(response), f"user-{number}")
    return found


def over_http(server: Server, **fields: object) -> dict[str, object]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.http_port}/v1/recommend",
        data=json.dumps(fields).encode(),
        headers={"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        answer: dict[str, object] = json.load(response)
    return answer


async def test_arms_of_a_file(bundle: Bundle, tmp_path: Path) -> None:
    policies, experiments = tmp_path / "policies.yaml", tmp_path / "experiments.yaml"
    policies.write_text(POLICIES)
    experiments.write_text(EXPERIMENTS)
    settings = {"bundle_path": bundle.directory, "policies_file": policies, "experiments_file": experiments}
    async with serve(tmp_path / "data", store_url="redis://127.0.0.1:1/0", **settings) as server:
        await server.log("experiments_changed", source="file")
        users = await users_of(server)
        assert users.keys() == {"control", "new"}
        control, new = users["control"], users["new"]

        # The arm's policy answers, the same over HTTP, and only in the scenario that the flag is limited to.
        for _ in range(3):
            answer = await server.recommend(
                user_id=new, scenario="home", explain=True, recent_item_ids=["item-3"], num_items=20
            )
            assert arm(answer) == "new"
            assert explores(answer)
            answer = await server.recommend(
                user_id=control, scenario="home", explain=True, recent_item_ids=["item-3"], num_items=20
            )
            assert arm(answer) == "control"
            assert not explores(answer)
        same = over_http(server, user_id=new, scenario="home")
        assert same["assignments"] == [{"experiment": "exploring", "arm": "new", "exposed": True}]
        assert not (await server.recommend(user_id=new)).assignments
        assert not (await server.recommend(scenario="home")).assignments
        anonymous = await server.recommend(scenario="home", context={"sessionId": "s"})
        assert arm(anonymous) == arm(await server.recommend(scenario="home", context={"sessionId": "s"}))

        # Pages stay in the arm; once the user is in another, the token is refused.
        first = await server.recommend(user_id=new, scenario="home", recent_item_ids=["item-3"])
        second = await server.recommend(user_id=new, scenario="home", page_token=first.next_page_token)
        assert arm(second) == "new"
        assert not {item.item_id for item in first.items} & {item.item_id for item in second.items}

        status = (await server.status()).experiments
        assert (status.source, list(status.experiments), status.refusal) == ("file", ["exploring"], "")
        assert status.age_seconds < 60
        page = await server.metrics()
        assert f'tandem_experiments_info{{fingerprint="{status.fingerprint}",source="file"}} 1.0' in page
        assert "tandem_experiments_refused_total 0.0" in page

        # A mistake changes nothing, and is named.
        replace_file(experiments, EXPERIMENTS.replace("home-new", "hone-new"))
        refused = await server.log("experiments_refused")
        expected = (
            f"{experiments}:9: flag homepage: strategies.0.variants.1.payload.value.scenario: there is no policy of "
            "scenario 'hone-new' (configured: home, home-new)"
        )
        assert refused["reason"] == expected
        status = (await server.status()).experiments
        assert (status.source, status.refusal) == ("file", expected)
        assert "tandem_experiments_refused_total 1.0" in await server.metrics()
        assert arm(await server.recommend(user_id=new, scenario="home")) == "new"

        # Half of a file, then none.
        replace_file(experiments, EXPERIMENTS[:200])
        await wait_until(lambda: len([line for line in server.logs if line["event"] == "experiments_refused"]) == 2, "")
        experiments.unlink()
        await wait_until(lambda: len([line for line in server.logs if line["event"] == "experiments_refused"]) == 3, "")
        assert arm(await server.recommend(user_id=new, scenario="home")) == "new"

        # A mistake in another flag keeps nobody from turning this one off.
        off = EXPERIMENTS.replace("- name: homepage", "- name: homepage\n    enabled: false")
        replace_file(experiments, f"{off}  - name: other\n    rollout: 5\n")

        async def is_off() -> bool:
            return not (await server.recommend(user_id=new, scenario="home")).assignments

        await wait_until(is_off, "the flag is off")
        assert "flag other: rollout: there is no such key" in (await server.status()).experiments.refusal
        replace_file(experiments, EXPERIMENTS)

        async def is_on() -> bool:
            return not (await server.status()).experiments.refusal

        await wait_until(is_on, "the file is good again")
        assert arm(await server.recommend(user_id=new, scenario="home")) == "new"

        # A policy that is gone: the request's own answers, and says so.
        replace_file(policies, POLICIES.replace("home-new", "other"))
        await server.log("policies_changed")

        async def without_arm() -> bool:
            answer = await server.recommend(user_id=new, scenario="home")
            return not answer.assignments[0].exposed and "arm_unavailable" in answer.degraded_reasons

        await wait_until(without_arm, "the arm's scenario is gone")
        assert arm(await server.recommend(user_id=control, scenario="home")) == "control"

        # The kill switch.
        replace_file(experiments, off)
        replace_file(policies, POLICIES)
        await wait_until(is_off, "the flag is off")
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await server.recommend(user_id=new, scenario="home", page_token=first.next_page_token)
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "page_token" in str(error.value.details())

    # A start with a file that is refused: the last good table.
    replace_file(experiments, "features: 5")
    async with serve(tmp_path / "data", store_url="redis://127.0.0.1:1/0", **settings) as server:
        await server.log("experiments_refused", in_force="disk")
        assert (await server.status()).experiments.source == "disk"
        replace_file(experiments, EXPERIMENTS)
        await server.log("experiments_changed", source="file")
        assert arm(await server.recommend(user_id=new, scenario="home")) == "new"
