"""Reading logs: what is judged, and every kind of what is left out, from Parquet files as feature_sync writes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tandem.contract.exploration import explore
from tandem.contract.impressions import Impression
from tandem.contract.streams import Event
from tests.support.archive import event, write_events, write_impressions
from trainer.core.errors import DataError
from trainer.data.archive import archived_files
from trainer.off_policy import logged_answers as module
from trainer.off_policy.logged_answers import Log, explored_share, read_log, read_rewards

EXPLORED = Impression(
    request_id="r1",
    timestamp=1_000_000,
    user_id="u1",
    scenario="home",
    context={"placement": "top"},
    model_version="m1",
    variant="champion",
    answer_source="ranked",
    item_ids=("a", "b", "c"),
    sources=("two_tower",) * 3,
    scores=(3.0, 2.0, 1.0),
    propensities=(0.92, 0.2 / 9, 0.9 + 0.1 / 8),
    num_candidates=10,
    ranks=(0, 7, 1),
)
"""The propensities contradict each other: they are those of different shares of exploration."""
GOOD = replace(EXPLORED, propensities=(0.8 + 0.2 / 10, 0.2 / 9, 0.8 + 0.2 / 8))
DAY = "2026-01-01"


def read(folder: Path, impressions: Sequence[Impression], *, max_answers: int = 1000, num_positions: int = 10) -> Log:
    write_impressions(folder / "impressions", {DAY: impressions})
    files = archived_files(folder / "impressions")
    return read_log(files, scenario="home", num_positions=num_positions, max_answers=max_answers)


def test_an_answer_is_read_with_its_share_of_exploration(tmp_path: Path) -> None:
    log = read(tmp_path, [GOOD], num_positions=2)
    (answer,) = log.answers
    assert (answer.request_id, answer.user_id, answer.timestamp) == ("r1", "u1", 1_000_000)
    assert (answer.item_ids, answer.ranks, answer.num_candidates) == (["a", "b"], [0, 7], 10)
    assert answer.exploration == 0.2
    assert (answer.context, answer.model_version) == ({"placement": "top"}, "m1")
    assert log.left_out == Counter()


def test_whatever_exploration_makes_tells_its_share() -> None:
    rng = np.random.default_rng(0)
    for num_candidates, exploration in ((150, 0.05), (12, 0.5), (1000, 0.02), (3, 0.3), (2, 1.0)):
        for _ in range(50):
            ranks, propensities = explore(np.arange(num_candidates), num_items=10, exploration=exploration, rng=rng)
            told = explored_share(num_candidates, ranks.tolist(), propensities.tolist(), len(ranks))
            assert told == pytest.approx(exploration, abs=2e-6)


def test_every_reason_to_leave_out_an_answer_is_counted(tmp_path: Path) -> None:
    def other(number: int, **changes: object) -> Impression:
        return replace(GOOD, request_id=f"other-{number}", **changes)

    impressions = [
        GOOD,
        GOOD,
        other(1, scenario="shop"),
        other(2, user_id=""),
        other(3, first_position=10),
        other(4, degraded_reasons=("ranker_skipped",)),
        other(5, item_ids=(), sources=(), scores=(), propensities=(), ranks=()),
        other(6, propensities=(1.0, 1.0, 1.0), num_candidates=0, ranks=()),
        *(
            other(10 + number, propensities=(bad, *GOOD.propensities[1:]))
            for number, bad in enumerate((0.0, float("nan"), 1.5, -0.1, float("inf")))
        ),
        other(20, ranks=(0, 7, 7)),
        other(21, ranks=(0, 7, 10)),
        other(22, num_candidates=2),
        other(23, propensities=EXPLORED.propensities),
        other(24, propensities=(0.9, 0.9, 0.9), num_candidates=0, ranks=()),
        other(25, ranks=(3, 7, 1)),
    ]
    log = read(tmp_path, impressions)
    assert [answer.request_id for answer in log.answers] == ["r1"]
    assert log.num_read == len(impressions)
    assert log.left_out == Counter(
        {
            module.REPEATED: 1,
            module.OTHER_SCENARIO: 1,
            module.ANONYMOUS: 1,
            module.LATER_PAGE: 1,
            module.DEGRADED: 1,
            module.EMPTY: 1,
            module.NOT_EXPLORED: 1,
            module.BAD_PROPENSITY: 5,
            module.BAD_RANKS: 6,
        }
    )


def test_whole_users_are_drawn(tmp_path: Path) -> None:
    impressions = [
        replace(GOOD, request_id=f"r{user}-{number}", user_id=f"u{user}") for user in range(10) for number in range(4)
    ]
    log = read(tmp_path, impressions, max_answers=17)
    assert Counter(Counter(answer.user_id for answer in log.answers).values()) == {4: 4}
    assert log.left_out[module.NOT_DRAWN] == 24


def test_missing_days_are_named(tmp_path: Path) -> None:
    folder = write_impressions(tmp_path, {"2026-01-30": [GOOD], "2026-02-02": []})
    log = read_log(archived_files(folder), scenario="home", num_positions=10, max_answers=10)
    assert log.missing_days == ["2026-01-31", "2026-02-01"]
    assert [path.parent.name for path in archived_files(folder, since="2026-02-01")] == ["day=2026-02-02"]
    assert [path.parent.name for path in archived_files(folder, until="2026-01-30")] == ["day=2026-01-30"]


def rewards(folder: Path, events: Sequence[Event], event_type: str = "click") -> module.Rewards:
    log = read(folder, [GOOD])
    write_events(folder / "events", {DAY: events})
    return read_rewards(archived_files(folder / "events"), log.answers, event_type)


def of_answer(event_id: str, item_id: str, kind: str = "click", *, value: float = 0.0, **changes: object) -> Event:
    return replace(event(event_id, "u1", item_id, 2.0, kind, value=value), **{"request_id": "r1", **changes})


def test_clicks_earn_once_and_all_others_are_counted(tmp_path: Path) -> None:
    found = rewards(
        tmp_path,
        [
            of_answer("1", "b"),
            of_answer("2", "b"),
            of_answer("3", "c", "purchase"),
            of_answer("4", "z"),
            of_answer("5", "a", user_id="u2"),
            of_answer("6", "a", request_id=""),
            of_answer("7", "a", request_id="gone"),
        ],
    )
    assert found.values == [[0.0, 1.0, 0.0]]
    assert found.num_events == 2
    assert found.left_out == {
        module.NOT_SHOWN: 1,
        module.OTHER_USER: 1,
        module.WITHOUT_ANSWER: 1,
        module.OTHER_ANSWER: 1,
    }


def test_dwell_earns_seconds(tmp_path: Path) -> None:
    events = [of_answer(str(number), "a", "dwell", value=value) for number, value in enumerate((1500, 500, -1))]
    found = rewards(tmp_path, [*events, of_answer("x", "a", "dwell", value=float("nan"))], "dwell")
    assert found.values == [[2.0, 0.0, 0.0]]
    assert found.left_out == {module.BAD_VALUE: 2}


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    folder = write_impressions(tmp_path, {DAY: [GOOD]})
    (path,) = archived_files(folder)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=f"{path.name}: is no readable Parquet file"):
        read_log([path], scenario="home", num_positions=10, max_answers=10)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: no such folder"):
        archived_files(tmp_path / "nowhere")
