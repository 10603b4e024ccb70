"""`replay-log` as it is called: real archives, prepared data, a real bundle, and the serving engine in its process."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tandem.contract.bundle import Bundle
from tandem.contract.exploration import explore
from tandem.contract.impressions import Impression
from tandem.contract.streams import Event
from tests.support.archive import event, write_events, write_impressions
from tests.support.tiny_bundle import TinySpec, build_tiny_bundle, mean_vector
from trainer.commands.cli import main

pytestmark = pytest.mark.process

NUM_USERS = 250
ANSWERS = 4
SHOWN = 5
POOL = 30
EXPLORATION = 0.4
SHARES = 1.0 / (1.0 + np.arange(SHOWN))
NOON = 1_767_268_800
"""2026-01-01T12:00 UTC, in seconds; histories are older."""
POLICIES = "scenarios: {home: {sources: {two_tower: 30, item_item: 0, content_neighbours: 0}}}"


@dataclass(frozen=True)
class Stack:
    """A log of answers by one bundle, and another bundle to judge."""

    folder: Path
    prepared: Path
    truth: float
    """Clicks per answer of the judged bundle."""
    logged_truth: float


def history_of(user: int) -> list[str]:
    return [f"item-{(user * 7 + step * 31) % 200}" for step in range(3)]


def order_of(bundle: Bundle, history: list[str]) -> list[str]:
    scores = bundle.item_vectors @ mean_vector(bundle, history)
    ids = bundle.items.item_ids(np.argsort(-scores, kind="stable").tolist())
    return [item_id for item_id in ids if item_id not in history][:POOL]


def appeal(user: int, item_id: str) -> float:
    """The probability of a click at the first position."""
    return 0.1 + 0.6 * ((int(item_id.removeprefix("item-")) * 13 + user) % 10 < 3)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("replay-log")
    vectors = np.random.default_rng(7).standard_normal((200, 16), dtype=np.float32)
    moved = vectors + 0.5 * np.random.default_rng(8).standard_normal((200, 16), dtype=np.float32)
    # All lists are searched, so that the pool is the nearest items.
    logged = build_tiny_bundle(folder / "logged", TinySpec(model_version="old", item_vectors=vectors, nprobe=8))
    judged = build_tiny_bundle(folder / "judged", TinySpec(model_version="new", item_vectors=moved, nprobe=8))
    (folder / "policies.yaml").write_text(POLICIES)
    with (folder / "interactions.csv").open("w", newline="") as sink:
        writer = csv.writer(sink)
        writer.writerow(["user", "item", "time"])
        for user in range(NUM_USERS):
            for step, item_id in enumerate(history_of(user)):
                writer.writerow([f"user-{user}", item_id, NOON - 86_400 + step])
    (folder / "data.toml").write_text(
        f'name = "log"\nformat = "table"\n[interactions]\npath = "{folder / "interactions.csv"}"\nuser = "user"\n'
        'item = "item"\ntimestamp = "time"\n'
    )
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("TANDEM_DATA_DIR", str(folder))
        monkeypatch.setenv("TANDEM_LOG_LEVEL", "error")
        assert main(["prepare", "--dataset", str(folder / "data.toml")]) == 0
        (prepared,) = {path.parent for path in folder.glob("**/interactions.parquet")}
        write_log(folder, logged)
        yield Stack(folder, prepared, clicks(judged), clicks(logged))


def clicks(bundle: Bundle) -> float:
    """Clicks per answer of a bundle that shows its best items."""
    shown = [order_of(bundle, history_of(user))[:SHOWN] for user in range(NUM_USERS)]
    appeals = [[appeal(user, item_id) for item_id in items] for user, items in enumerate(shown)]
    return float((np.array(appeals) @ SHARES).mean())


def write_log(folder: Path, bundle: Bundle) -> None:
    """Answers that explored the bundle's pools, and what was clicked; and answers of a scenario that did not."""
    rng = np.random.default_rng(1)
    impressions, events = [], []
    for user in range(NUM_USERS):
        pool = order_of(bundle, history_of(user))
        for number in range(ANSWERS):
            request_id = f"r{user}-{number}"
            ranks, propensities = explore(np.arange(POOL), num_items=SHOWN, exploration=EXPLORATION, rng=rng)
            shown = [pool[rank] for rank in ranks]
            answer = Impression(
                request_id=request_id,
                timestamp=(NOON + 60 * number) * 1_000_000,
                user_id=f"user-{user}",
                scenario="home",
                model_version="old",
                variant="champion",
                answer_source="retrieved",
                item_ids=shown,
                sources=["two_tower"] * SHOWN,
                scores=[1.0] * SHOWN,
                propensities=propensities.tolist(),
                num_candidates=POOL,
                ranks=ranks.tolist(),
            )
            plain = replace(answer, scenario="plain", request_id=f"plain-{request_id}", num_candidates=0, ranks=())
            impressions += [answer, replace(plain, propensities=[1.0] * SHOWN)]
            events += [
                click(request_id, user, item_id, number)
                for position, item_id in enumerate(shown)
                if rng.random() < appeal(user, item_id) * SHARES[position]
            ]
    write_impressions(folder / "impressions", {"2026-01-01": impressions})
    write_events(folder / "events", {"2026-01-01": events})


def click(request_id: str, user: int, item_id: str, number: int) -> Event:
    happened = event(f"{request_id}-{item_id}", f"user-{user}", item_id, NOON + 60 * number + 5)
    return replace(happened, request_id=request_id)


@pytest.fixture(autouse=True)
def _environment(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_DATA_DIR", str(stack.folder))
    monkeypatch.setenv("TANDEM_LOG_LEVEL", "error")


def replayed(stack: Stack, *arguments: str, scenario: str = "home", bundle: str = "judged") -> int:
    fixed = ["--bundle", str(stack.folder / bundle), "--prepared", str(stack.prepared)]
    policies = ["--policies", str(stack.folder / "policies.yaml"), "--scenario", scenario]
    return main(["replay-log", *fixed, *policies, *arguments])


def test_another_bundle_is_judged_by_the_log(stack: Stack, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert replayed(stack, "--json", "--output", str(tmp_path / "out")) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found == json.loads((tmp_path / "out.json").read_text())
    assert (found["model_version"], found["exploration"]) == ("new", 0.0)
    assert found["log"]["num_judged"] == NUM_USERS * ANSWERS
    assert found["log"]["left_out"] == {"of another scenario": NUM_USERS * ANSWERS}
    assert found["log"]["model_versions"] == {"old": NUM_USERS * ANSWERS}
    assert found["log"]["num_answers_without_history"] == 0
    assert found["log"]["num_degraded_replays"] == 0
    for name in ("ips", "snips", "dr"):
        estimate = found["estimates"][name]
        assert abs(estimate["value"] - stack.truth) < 4 * estimate["standard_error"], name
        assert 0 < estimate["standard_error"] < 0.1, name
    text = (tmp_path / "out.md").read_text()
    assert "| doubly robust |" in text
    assert f"{NUM_USERS * ANSWERS:,} of {2 * NUM_USERS * ANSWERS:,} answers; left out: answers" in text
    assert "position is looked at" in text


def test_the_logged_bundle_matches_every_answer_in_its_pool(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    """The pools of the serving engine are those that the log was drawn from."""
    (stack.folder / "explores.yaml").write_text(POLICIES.replace("{sources", "{exploration: 0.4, sources"))
    policies = ["--policies", str(stack.folder / "explores.yaml")]
    assert replayed(stack, *policies, "--json", bundle="logged") == 0
    found = json.loads(capsys.readouterr().out)
    # The same policy: every weight is 1, and every estimate what was logged.
    assert found["support"]["effective_users"] == pytest.approx(NUM_USERS)
    assert found["support"]["supported"]["value"] == pytest.approx(1.0)
    assert found["estimates"]["ips"]["value"] == pytest.approx(found["estimates"]["logged"]["value"])
    assert found["decision"] == "no difference"


def test_answers_without_exploration_cannot_say(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    assert replayed(stack, "--logged-scenario", "plain") == 0
    said = capsys.readouterr().out
    assert said.startswith("**Cannot say, because no answer of the log explored: what is shown with probability 1")
    assert f"left out: answers {NUM_USERS * ANSWERS:,} of another scenario, {NUM_USERS * ANSWERS:,} without" in said


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("--reward", "purchase"), 0, "no event of type purchase names an answer and an item of the log"),
        (("--since", "2026-02-01"), 0, "the log has no answer that can be judged (0 read)"),
        (("--since", "2026-02-01", "--until", "2026-01-01"), 2, "--since 2026-02-01: is after --until 2026-01-01"),
        (("--impressions", "/nowhere"), 1, "/nowhere: no such folder"),
        (("--scenario", "shop", "--logged-scenario", "home"), 1, "--scenario shop: is not configured"),
        (("--bundle", "/nowhere"), 1, "the serving engine could not be run"),
    ],
)
def test_what_is_missing_is_named(
    stack: Stack, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], status: int, message: str
) -> None:
    assert replayed(stack, *arguments) == status
    captured = capsys.readouterr()
    assert message in (captured.out if status == 0 else captured.err)
    assert "Traceback" not in captured.err
