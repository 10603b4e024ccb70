"""A bundle evaluated as it is served: the answers to held-out users, from the check's command too."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from inference_server.bundle_check import command
from inference_server.bundle_check.command import CheckOptions
from inference_server.bundle_check.held_out_users import MIN_REQUESTS, ask_held_out_users
from inference_server.core.errors import SettingsError
from inference_server.model.serving_model import ServingModel, open_model
from inference_server.policy.policy_file import PolicyFile
from inference_server.request.policy_choices import policy_choices
from tandem.contract.bundle import Bundle
from tandem.contract.held_out_users import HeldOutUser, write_held_out_users
from tandem.contract.served import (
    NOT_SHOWN,
    Refused,
    Served,
    ServedBundle,
    ndcg,
    parse_check_result,
    recall,
    reciprocal_rank,
)
from tests.inference_server.conftest import build
from tests.inference_server.defects import copy_of, flipped_byte_in_index
from tests.support.tiny_bundle import mean_vector, nan_ranker, state_of

SHOWN = 10
BUILT_IN = PolicyFile(None, policy_choices())


def order_of(bundle: Bundle, history: list[str]) -> list[str]:
    """The items that a user has not seen, nearest to the mean of the history first."""
    scores = bundle.item_vectors @ mean_vector(bundle, history)
    ids = bundle.items.item_ids(np.argsort(-scores, kind="stable").tolist())
    return [item_id for item_id in ids if item_id not in history]


def users_at(bundle: Bundle, positions: Sequence[int]) -> list[HeldOutUser]:
    """Users whose held-out item is at these positions of the order that the bundle must answer."""
    users = []
    for number, position in enumerate(positions):
        history = bundle.items.item_ids([number, number + 20])
        users.append(HeldOutUser(f"user-{number}", state_of(history), order_of(bundle, history)[position]))
    return users


async def ask(model: ServingModel, users: Sequence[HeldOutUser], policies: PolicyFile = BUILT_IN) -> ServedBundle:
    (served,) = await ask_held_out_users([model], users, num_shown=SHOWN, policies=policies)
    return served


async def test_ranks_are_the_positions_in_the_answers(bundle: Bundle, model: ServingModel) -> None:
    positions = [0, 3, 9, 10, 50, 1]
    served = await ask(model, users_at(bundle, positions))
    assert served.ranks.tolist() == [0, 3, 9, NOT_SHOWN, NOT_SHOWN, 1]
    assert ndcg(served.ranks) == pytest.approx([1, 1 / np.log2(5), 1 / np.log2(11), 0, 0, 1 / np.log2(3)])
    assert recall(served.ranks).tolist() == [1, 1, 1, 0, 0, 1]
    assert reciprocal_rank(served.ranks) == pytest.approx([1, 1 / 4, 1 / 10, 0, 0, 1 / 2])
    assert served.model_version == "tiny-1"
    assert served.degraded_answers == {}
    assert served.answers_by_source == {"RETRIEVED": 6}


async def test_what_is_shown_is_counted(bundle: Bundle, model: ServingModel) -> None:
    users = users_at(bundle, [0] * 5)
    shown = [order_of(bundle, bundle.items.item_ids([n, n + 20]))[:SHOWN] for n in range(5)]
    served = await ask(model, users)
    assert served.num_recommended_items == len({item_id for user_items in shown for item_id in user_items})
    assert served.coverage == served.num_recommended_items / 200
    all_shown = [item_id for user_items in shown for item_id in user_items]
    popularity = bundle.items.popularity[bundle.item_vocabulary.rows(all_shown)]
    assert served.novelty_bits == pytest.approx(np.log2(32 / np.maximum(popularity, 1)).mean())


async def test_popularity_is_ranked_beside_the_bundle(bundle: Bundle, model: ServingModel) -> None:
    top = bundle.items.item_ids(bundle.rows_by_popularity[:40].tolist())
    users = [
        HeldOutUser("none-seen", state_of([top[39]]), top[3]),
        HeldOutUser("two-better-seen", state_of([top[0], top[2], top[5]]), top[3]),
        HeldOutUser("too-far", state_of([top[0]]), top[SHOWN + 1]),
        HeldOutUser("just", state_of([top[0]]), top[SHOWN]),
        HeldOutUser("not-in-the-catalogue", state_of([top[0]]), "an item of tomorrow"),
    ]
    served = await ask(model, users)
    assert served.popularity_ranks.tolist() == [3, 1, NOT_SHOWN, SHOWN - 1, NOT_SHOWN]
    assert served.ranks[-1] == NOT_SHOWN


async def test_users_whose_items_a_bundle_does_not_know_get_popular_ones(model: ServingModel) -> None:
    served = await ask(model, [HeldOutUser("new", state_of(["an item of tomorrow"]), "another")])
    assert served.answers_by_source == {"POPULAR": 1}
    assert served.degraded_answers == {}


async def test_degraded_answers_are_named(tmp_path: Path) -> None:
    broken = build(tmp_path / "broken", ranker=nan_ranker, content_weight=0.3)
    served = await ask(open_model(broken.directory), users_at(broken, [0, 1]))
    assert served.degraded_answers == {"ranker_failed": 2}
    assert served.num_degraded_answers == 2


async def test_policies_hold_as_they_do_where_it_serves(bundle: Bundle, model: ServingModel, tmp_path: Path) -> None:
    users = users_at(bundle, [0, 0, 0])
    file = tmp_path / "policies.yaml"
    file.write_text("default: {include_categories: [rare], sources: {trending: 10}}\n")
    served = await ask(model, users, PolicyFile(file, policy_choices()))
    assert served.num_recommended_items <= 20
    assert served.degraded_answers == {}  # an empty list of trending items is no failure


async def test_two_bundles_answer_the_same_users(bundle: Bundle, model: ServingModel, tmp_path: Path) -> None:
    other = open_model(build(tmp_path / "other", model_version="other", seed=5).directory)
    users = users_at(bundle, [0, 1, 2])
    ours, theirs = await ask_held_out_users([model, other], users, num_shown=SHOWN, policies=BUILT_IN)
    assert (ours.model_version, theirs.model_version) == ("tiny-1", "other")
    assert ours.ranks.tolist() == [0, 1, 2]
    assert ndcg(theirs.ranks).mean() < ndcg(ours.ranks).mean()
    for served in (ours, theirs):
        assert 0 < served.latency_ms["p50"] <= served.latency_ms["p90"] <= served.latency_ms["p99"]
        assert sum(served.answers_by_source.values()) == 3 < MIN_REQUESTS


async def test_without_users_there_is_nothing_to_measure(model: ServingModel) -> None:
    with pytest.raises(ValueError, match="no held-out user"):
        await ask(model, [])


def run_check(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "inference_server", "check", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.process
def test_the_command_compares_two_bundles(bundle: Bundle, tmp_path: Path) -> None:
    other = build(tmp_path / "other", model_version="other", seed=5)
    users, output = tmp_path / "users.jsonl", tmp_path / "result.json"
    write_held_out_users(users, users_at(bundle, [0, 4, 30]))
    done = run_check(bundle.directory, "--held-out", users, "--against", other.directory, "--output", output)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ok: tiny-1")
    assert "3 held-out users, 10 items each" in done.stdout
    assert "ndcg@10" in done.stdout
    served = parse_check_result(output.read_text())
    assert isinstance(served, Served)
    assert served.candidate.ranks.tolist() == [0, 4, NOT_SHOWN]
    assert served.candidate.exact_overlap == 1.0
    assert served.against is not None
    assert served.against.model_version == "other"
    assert (served.num_users, served.num_shown) == (3, 10)


@pytest.mark.process
def test_a_bundle_that_cannot_be_compared_with_refuses_nothing(bundle: Bundle, tmp_path: Path) -> None:
    broken = copy_of(bundle.directory, tmp_path / "broken")
    flipped_byte_in_index(broken)
    done = run_check(bundle.directory, "--against", broken, "-k", 5, "--json")
    assert done.returncode == 0, done.stderr
    served = parse_check_result(done.stdout)
    assert isinstance(served, Served)
    assert served.against is None
    assert "index.faiss" in served.against_problem
    assert served.num_users == len(bundle.held_out_users)
    assert served.num_shown == 5


@pytest.mark.parametrize("option", ["previous", "against"])
def test_a_folder_to_compare_with_that_is_not_there_is_a_wrong_argument(
    bundle: Bundle, tmp_path: Path, option: str
) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("gone", "empty"):
        options = CheckOptions(directory=bundle.directory, **{option: tmp_path / name})
        with pytest.raises(SettingsError, match=rf"^--{option} .*{name}: holds no bundle: there is no manifest\.json$"):
            command.run_check(options)


@pytest.mark.process
def test_a_refused_bundle_is_not_asked(bundle: Bundle, tmp_path: Path) -> None:
    broken = copy_of(bundle.directory, tmp_path / "broken")
    flipped_byte_in_index(broken)
    output = tmp_path / "result.json"
    done = run_check(broken, "--against", bundle.directory, "--output", output)
    assert done.returncode == 1
    refused = parse_check_result(output.read_text())
    assert isinstance(refused, Refused)
    assert refused.reason_kind == "corrupt"
    assert "index.faiss" in refused.reason


@pytest.mark.process
def test_wrong_files_of_users_are_named(bundle: Bundle, tmp_path: Path) -> None:
    users = tmp_path / "users.jsonl"
    write_held_out_users(users, users_at(bundle, [0]))
    with users.open("a") as sink:
        sink.write(json.dumps({"user_id": "x", "state": "!", "target_item_id": "y"}) + "\n")
    done = run_check(bundle.directory, "--held-out", users)
    assert done.returncode == 2
    assert "users.jsonl line 2 is unreadable" in done.stderr
    users.write_text("")
    done = run_check(bundle.directory, "--held-out", users)
    assert (done.returncode, "holds no user" in done.stderr) == (2, True)
    done = run_check(bundle.directory, "--held-out", tmp_path / "gone.jsonl")
    assert (done.returncode, "gone.jsonl: No such file" in done.stderr) == (2, True)
    assert run_check(bundle.directory, "-k", 0).returncode == 2


@pytest.mark.parametrize("text", ["", "{}", '{"served": {}}', "[]", '{"served": {"candidate": {}, "against": null}}'])
def test_what_is_no_result_is_not_read_as_one(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_check_result(text)


@pytest.mark.process
def test_the_check_needs_nothing_of_the_wire() -> None:
    """The trainer's environment has the packages that the check imports, but not the server's other packages."""
    wire = ("grpc", "google", "fastapi", "uvicorn", "mlflow", "prometheus_client", "jsonschema_rs")
    code = (
        "import sys; import inference_server.bundle_check.command; "
        f"print([name for name in {wire} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
