"""The report: counts by dimension, the users of experiments, files that appear at once, and what is refused."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from feature_sync.attribution.database import ARM_UNAVAILABLE, DEADLINE
from feature_sync.attribution.report import attribute
from feature_sync.attribution.summaries import Line, summaries
from feature_sync.attribution.users import experiment_users, experiments
from feature_sync.commands.cli import main
from feature_sync.core.errors import SettingsError, StorageError
from feature_sync.statistics.plan import standard_metrics
from feature_sync.store.connection import StoreConnection
from inference_server.core.degradation import Degraded
from tandem.contract.announced import experiment_shares_key, shares_to_bytes
from tandem.contract.impressions import Impression
from tandem.contract.streams import EVENTS, IMPRESSIONS, Event
from tests.feature_sync.attribution.archives import arm, event, opened, question, shown, write, write_both
from tests.support.small_disk import small_disk

BUY = {"type": "purchase"}


def fill(folder: Path) -> None:
    """Two users in the arms of one experiment, one of whom control answered once in place of the arm."""
    control, b = [arm("exp", "control")], [arm("exp", "b"), arm("other", "x")]
    write_both(
        folder,
        [
            shown("r1", "ann", "abc", 1, assignments=control),
            shown("r2", "ann", "ad", 5, assignments=control, placement="bottom", degraded_reasons=["ranker_skipped"]),
            shown("r3", "bob", "abc", 2, assignments=b, model_version="m2"),
            shown("r4", "bob", "abc", 3, assignments=[arm("exp", "b", exposed=False)], degraded_reasons=["x"]),
            shown("r5", "", "a", 4, assignments=b, context={"sessionId": "s1"}),
            shown("r6", "", "a", 4, assignments=b),
            shown("r0", "bob", "ab", -30),
            shown("r7", "ann", "", 6, assignments=control),
        ],
        [
            event(1, "ann", "a", 2, request_id="r1"),
            event(2, "ann", "a", 2.1, request_id="r1"),  # again
            event(3, "ann", "b", 2, request_id="r1", type="add_to_cart"),
            event(4, "ann", "b", 40, request_id="r1", value=10.0, currency="EUR", **BUY),  # on the next day
            event(5, "bob", "c", 3, request_id="r3", value=7.5, currency="USD", **BUY),
            event(6, "bob", "c", 3, request_id="r3", value=2.5, currency="USD", **BUY),
            event(7, "bob", "a", 3, request_id="r3", type="dwell", value=4000),
            event(8, "bob", "a", 4, request_id="r4"),  # of control
            event(9, "bob", "a", -29, request_id="r0"),
            event(10, "bob", "a", -29, request_id="r0", value=1.0, currency="EUR", **BUY),
            event(11, "zoe", "a", 4, request_id="r5"),
        ],
    )


def lines_of(folder: Path, dimension: str) -> dict[str, Line]:
    with opened(folder) as database:
        return {line.value: line for line in summaries(database)[dimension]}


def test_counts_by_dimension(tmp_path: Path) -> None:
    fill(tmp_path)
    total = lines_of(tmp_path, "all")[""]
    expected = {
        "answers": 7,
        "degraded_answers": 2,
        "users": 3,
        "shown": 13,
        "clicked": 3,
        "clicks": 4,
        "added_to_cart": 1,
        "purchased": 2,
        "purchases": 3,
        "dwell_seconds": 4.0,
    }
    assert {name: total.counts[name] for name in expected} == expected
    assert total.counts["ctr"] == pytest.approx(3 / 13)
    assert total.revenue == {"EUR": 10.0, "USD": 10.0}
    placements = lines_of(tmp_path, "placement")
    assert (placements["bottom"].counts["shown"], placements["bottom"].counts["ctr"]) == (2, 0)
    positions = lines_of(tmp_path, "position")
    assert {position: line.counts["clicked"] for position, line in positions.items()} == {"0": 3, "1": 0, "2": 0}
    assert {name: line.counts["purchased"] for name, line in lines_of(tmp_path, "model").items()} == {"m1": 1, "m2": 1}
    assert list(lines_of(tmp_path, "day")) == ["2026-03-10"]
    arms = lines_of(tmp_path, "arm")
    assert {name: line.counts["answers"] for name, line in arms.items()} == {
        "exp: b": 3,
        "exp: control": 3,
        "other: x": 3,
    }
    assert (arms["exp: b"].revenue, arms["exp: b"].counts["clicked"]) == ({"USD": 10.0}, 1)


def test_users_of_an_experiment(tmp_path: Path) -> None:
    fill(tmp_path)
    with opened(tmp_path, lookback_seconds=48 * 3600) as database:
        assert experiments(database) == ["exp", "other"]
        users = experiment_users(database, "exp")
    assert (users.arms, users.currencies, users.answers_without_user) == (("b", "control"), ("EUR", "USD"), 1)
    rows: dict[str, dict[str, Any]] = {row["user_id"]: row for row in users.table.to_pylist()}
    assert list(rows) == ["ann", "bob", "s1"]
    ann, bob = rows["ann"], rows["bob"]
    assert (ann["arm"], ann["answers"], ann["impressions"], ann["clicks"], ann["converted"]) == ("control", 3, 5, 1, 1)
    assert (ann["revenue_EUR"], ann["revenue_USD"], ann["degraded_answers"], ann["distinct_items"]) == (10, 0, 1, 4)
    # Of ann's a a b c d, bob's a b c and s1's a, where arms weigh as their users, a and b are the head.
    assert [row["tail_impressions"] for row in rows.values()] == [2, 1, 0]
    assert (ann["impressions_before"], ann["revenue_EUR_before"]) == (None, None)  # nothing is known of before
    assert (bob["answers"], bob["clicks"], bob["purchases"], bob["dwell_seconds"]) == (1, 0, 2, 4.0)
    assert (bob["impressions_before"], bob["clicks_before"], bob["converted_before"]) == (2, 1, 1)
    assert (bob["revenue_EUR_before"], bob["revenue_USD_before"], bob["revenue_USD"]) == (1, 0, 10)
    assert (rows["s1"]["arm"], rows["s1"]["clicks"]) == ("b", 1)
    assert bob["first_exposed"] == shown("r3", "bob", "", 2).timestamp


def test_latencies_and_errors_of_an_arm(tmp_path: Path) -> None:
    """What the arm could not give is its error; what is not known of a latency counts as the user's other answers."""
    b, stood_in = [arm("exp", "b")], [arm("exp", "b", exposed=False)]
    write_both(
        tmp_path,
        [
            shown("r1", "ann", "ab", 1, assignments=b, latency_us=4_000),
            shown("r2", "ann", "a", 2, assignments=b, latency_us=30_000, degraded_reasons=[DEADLINE]),
            shown("r3", "ann", "a", 3, assignments=b),
            shown("r4", "ann", "abc", 4, assignments=stood_in, latency_us=9_000, degraded_reasons=[ARM_UNAVAILABLE]),
            shown("r5", "ann", "a", 5, assignments=stood_in, latency_us=9_000, degraded_reasons=[DEADLINE]),
            shown("r6", "bob", "", 6, assignments=b, latency_us=25_000),
            shown("r7", "cat", "a", 6, assignments=b),
            shown("r8", "dan", "a", 6, assignments=stood_in, degraded_reasons=[ARM_UNAVAILABLE]),
        ],
        [],
    )
    with opened(tmp_path) as database:
        table = experiment_users(database, "exp", slow_ms=25.0).table
    names = ("user_id", "answers", "requests", "errors", "latency_ms", "slow_answers")
    assert list(zip(*(table.column(name).to_pylist() for name in names), strict=True)) == [
        ("ann", 3, 4, 2, 51.0, 1.5),
        ("bob", 1, 1, 0, 25.0, 0.0),
        ("cat", 1, 1, 0, None, None),
    ]
    found = {metric.name for metric in standard_metrics(table.column_names)}
    assert {"latency_ms", "slow_share", "error_share", "degraded_share", "long_tail_share"} <= found
    days, arms = lines_of(tmp_path, "day"), lines_of(tmp_path, "arm")
    assert days["2026-03-10"].counts["latency_ms"] == pytest.approx((4 + 30 + 9 + 9 + 25) / 5)
    assert arms["exp: b"].counts["latency_ms"] == pytest.approx((4 + 30 + 25) / 3)


def test_without_latencies_nothing_is_said_of_them(tmp_path: Path) -> None:
    fill(tmp_path)
    with opened(tmp_path) as database:
        table = experiment_users(database, "exp").table
    found = {metric.name for metric in standard_metrics(table.column_names)}
    assert found & {"latency_ms", "slow_share", "error_share"} == {"error_share"}
    assert lines_of(tmp_path, "all")[""].counts["latency_ms"] is None


def visits_of_users(arms: dict[str, tuple[int, str]]) -> list[Impression]:
    """400 users of each arm, who visit so many times; a list has 4 items of the arm's, the earlier ones more often."""
    draw = random.Random(5)
    answers = []
    for name, (visits, items) in arms.items():
        for number in range(400):
            for visit in range(visits):
                ranked = sorted(items, key=lambda item: draw.random() ** (1 + items.index(item) / 2), reverse=True)
                request_id, assignments = f"{name}-{number}-{visit}", [arm("exp", name)]
                answers.append(
                    shown(request_id, f"{name}{number}", "".join(ranked[:4]), visit, assignments=assignments)
                )
    return answers


@pytest.mark.parametrize(
    ("visits", "items", "outcome"),
    [
        pytest.param(6, "abcdefghijklmnop", "held", id="more visits"),
        pytest.param(2, "abcdef", "broken", id="few items"),
    ],
)
def test_a_long_tail_does_not_shrink_because_users_come_more_often(
    tmp_path: Path, visits: int, items: str, outcome: str
) -> None:
    arms = {"control": (2, "abcdefghijklmnop"), "b": (visits, items)}
    write(tmp_path, IMPRESSIONS, visits_of_users(arms))
    attribute(question(tmp_path), tmp_path / "report")
    (found,) = json.loads((tmp_path / "report" / "report.json").read_text())["experiments"]
    (b,) = found["result"]["arms"]
    (compared,) = [metric for metric in b["metrics"] if metric["metric"] == "long_tail_share"]
    assert compared["outcome"] == outcome, compared


@pytest.mark.parametrize("visits", [1, 3])
def test_an_arm_with_more_visits_does_not_decide_which_items_are_the_head(tmp_path: Path, visits: int) -> None:
    """Each arm shows three items of its own, three times, twice and once at each visit."""
    write(
        tmp_path,
        IMPRESSIONS,
        [
            shown(f"{name}{visit}{number}", name, items, visit, assignments=[arm("exp", name)])
            for name, letters, times in (("control", "abc", 1), ("b", "xyz", visits))
            for visit in range(times)
            for number, items in enumerate((letters, letters[:2], letters[0]))
        ],
    )
    with opened(tmp_path) as database:
        rows = experiment_users(database, "exp").table.to_pylist()
    assert {row["user_id"]: row["tail_impressions"] / row["impressions"] for row in rows} == {"b": 0.5, "control": 0.5}


def test_without_a_tail_nothing_is_said_of_it(tmp_path: Path) -> None:
    """A catalogue of one item is its own head."""
    b = [arm("exp", "b")]
    write(tmp_path, IMPRESSIONS, [shown(f"r{number}", "ann", "a", number, assignments=b) for number in range(3)])
    with opened(tmp_path) as database:
        table = experiment_users(database, "exp").table
    assert "tail_impressions" not in table.column_names
    assert "long_tail_share" not in {metric.name for metric in standard_metrics(table.column_names)}


def test_the_reasons_are_the_servers() -> None:
    assert (ARM_UNAVAILABLE, DEADLINE) == (Degraded.ARM_UNAVAILABLE, Degraded.DEADLINE)


def many() -> tuple[list[Impression], list[Event]]:
    """600 users, of whom those of arm b click twice as often and pay in one currency."""
    draw = random.Random(3)
    answers, events = [], []
    for number in range(600):
        name = "b" if number % 2 else "control"
        for visit in range(3):
            request_id, hours = f"{number}-{visit}", draw.uniform(0, 24)
            made = {"assignments": [arm("exp", name)], "latency_us": 2_000 + number}
            answers.append(shown(request_id, f"u{number}", "abcdefgh", hours, **made))
            for item in "abcdefgh":
                if draw.random() < (0.2 if name == "b" else 0.1):
                    events.append(event(len(events), f"u{number}", item, hours + 0.1, request_id=request_id))
                    if draw.random() < 0.2:
                        paid = {"value": draw.uniform(5, 50), "currency": "EUR", **BUY}
                        events.append(
                            event(len(events), f"u{number}", item, hours + 0.2, request_id=request_id, **paid)
                        )
    return answers, events


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a report of a lift."""
    folder = tmp_path_factory.mktemp("attribution")
    write_both(folder, *many())
    (folder / "plans.yaml").write_text("exp: {shares: {control: 1, b: 1}, started: 2026-03-01, min_days: 1}\n")
    attribute(question(folder, plans=folder / "plans.yaml"), folder / "attribution")
    return folder / "attribution"


def test_a_planted_lift_is_found_and_shown(reported: Path) -> None:
    report = json.loads((reported / "report.json").read_text())
    (found,) = report["experiments"]
    (b,) = found["result"]["arms"]
    outcomes = {metric["metric"]: metric["outcome"] for metric in b["metrics"]}
    assert (outcomes["ctr"], found["problem"], found["is_planned"]) == ("better", "", True)
    assert "revenue_per_user_EUR" in outcomes
    assert report["all"]["answers"] == 1800
    page = (reported / "report.html").read_text()
    for wanted in ("Experiment exp", "interval that is valid", "Clicked, by position", b["verdict"]["because"][:20]):
        assert wanted in page
    assert "https://" not in page.partition("<script>")[0]
    summary = pq.read_table(reported / "summary.parquet").to_pylist()
    assert {row["dimension"] for row in summary} >= {"all", "day", "placement", "position", "arm", "model"}
    assert pq.read_table(reported / "revenue.parquet").column("currency").unique().to_pylist() == ["EUR"]
    assert pq.read_table(reported / "users" / "exp.parquet").num_rows == 600


def test_shares_that_servers_name_are_expected_where_no_plan_says_others(tmp_path: Path) -> None:
    write_both(tmp_path, *many())

    def judged(named: dict[str, dict[str, float]], plan: str = "{}") -> tuple[dict[str, float], bool, str]:
        (tmp_path / "plans.yaml").write_text(plan)
        asked = question(tmp_path, plans=tmp_path / "plans.yaml")
        attribute(asked, tmp_path / "report", named_shares=lambda: named)
        (found,) = json.loads((tmp_path / "report" / "report.json").read_text())["experiments"]
        (b,) = [arm for arm in found["result"]["arms"] if arm["arm"] == "b"]
        return found["shares"], found["has_equal_shares"], b["sample_ratio"]["status"]

    assert judged({}) == ({"b": 1, "control": 1}, True, "ok")
    assert judged({"exp": {"control": 9, "b": 1}}) == ({"control": 9, "b": 1}, False, "invalid")
    assert judged({"exp": {"control": 9, "c": 1}}) == ({"b": 1, "control": 1}, True, "ok"), "not the arms of the period"
    assert judged({"exp": {"control": 9, "b": 1}}, "exp: {shares: {control: 1, b: 1}}")[1:] == (False, "ok")
    page = (tmp_path / "report" / "report.html").read_text()
    assert "Equal shares of the arms are expected" not in page


def test_running_again_changes_nothing_but_takes_late_events_in(tmp_path: Path) -> None:
    fill(tmp_path)
    output = tmp_path / "out" / "report"

    def clicks() -> int:
        attribute(question(tmp_path), output)
        return int(json.loads((output / "report.json").read_text())["all"]["clicks"])

    assert (clicks(), clicks()) == (4, 4)
    write(tmp_path, EVENTS, [event(99, "ann", "d", 30, request_id="r2")], days=5)
    assert clicks() == 5
    assert [path.name for path in output.parent.iterdir()] == ["report"]


def test_nothing_shown_is_a_report_too(tmp_path: Path) -> None:
    attribute(question(tmp_path), tmp_path / "report")
    assert "No answer of this time has an impression" in (tmp_path / "report" / "report.html").read_text()


def test_an_experiment_without_control_says_why_it_is_not_analysed(tmp_path: Path) -> None:
    write_both(tmp_path, [shown("r1", "ann", "a", assignments=[arm("<exp>", "a"), arm("<exp>2", "b")])], [])
    attribute(question(tmp_path), tmp_path / "report")
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert "control 'control' is not among the arms a" in report["experiments"][0]["problem"]
    page = (tmp_path / "report" / "report.html").read_text()
    assert "&lt;exp&gt;" in page
    assert "<exp>" not in page


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("exp: {shares: [1]}", r"plans.yaml: exp.shares: input should be a valid dictionary"),
        ("exp: {alhpa: 0.1}", r"exp.alhpa: extra inputs are not permitted"),
        ("exp: {alpha: 2}", r"exp.alpha: input should be less than 0.5"),
        ("- exp", r"plans.yaml: input should be a valid dictionary"),
        ("{", r"plans.yaml: .*line 1"),
    ],
)
def test_a_wrong_file_of_plans_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "plans.yaml").write_text(text)
    with pytest.raises(SettingsError, match=f"--plans: .*{message}"):
        attribute(question(tmp_path, plans=tmp_path / "plans.yaml"), tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(SettingsError, match="holds files and no earlier report"):
        attribute(question(tmp_path), tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TANDEM_DATA_DIR", str(tmp_path))
    return tmp_path


def test_the_command(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(data_dir)
    assert main(["attribute", "--from", "2026-03-10", "--to", "2026-03-11", "--window", "2"]) == 0
    assert json.loads(capsys.readouterr().out)["all"]["clicks"] == 4
    assert (data_dir / "attribution" / "report.html").is_file()
    assert main(["attribute", "--from", "2026-03-11", "--to", "2026-03-11"]) == 2
    assert "--to: 2026-03-11T00:00:00+00:00 must be after --from" in capsys.readouterr().err


@pytest.mark.process
def test_the_command_asks_the_store_for_shares(
    data_dir: Path, store_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(data_dir)
    command = ["attribute", "--from", "2026-03-10", "--to", "2026-03-11"]
    monkeypatch.setenv("TANDEM_STORE_URL", store_url)
    with StoreConnection(store_url) as connection:
        connection.call("HSET", experiment_shares_key(), "exp", shares_to_bytes({"control": 3, "b": 1}), "other", "?")
    assert main(command) == 0
    found = {one["experiment"]: one for one in json.loads(capsys.readouterr().out)["experiments"]}
    assert (found["exp"]["shares"], found["exp"]["has_equal_shares"]) == ({"b": 1, "control": 3}, False)
    assert (found["other"]["shares"], found["other"]["has_equal_shares"]) == ({"x": 1}, True)
    monkeypatch.setenv("TANDEM_STORE_URL", "redis://127.0.0.1:1/0")
    assert main(command) == 0
    without = capsys.readouterr()
    assert "shares_unknown" in without.err
    assert all(one["has_equal_shares"] for one in json.loads(without.out)["experiments"])


@pytest.mark.process  # mounts the disk
@pytest.mark.parametrize("ballast_kibibytes", [0, 64])
def test_a_full_disk_is_one_line_that_says_what_to_do(tmp_path: Path, ballast_kibibytes: int) -> None:
    fill(tmp_path)
    with small_disk(tmp_path / "disk", kibibytes=64) as disk:
        (disk / "ballast").write_bytes(bytes(ballast_kibibytes << 10))
        with pytest.raises(StorageError) as failure:
            attribute(question(tmp_path), disk / "report")
        assert [path.name for path in disk.iterdir()] == ["ballast"]
    line = str(failure.value)
    assert line.startswith(str(disk))
    assert line.endswith(
        ": No space left on device; free some space, or set TANDEM_DATA_DIR or TMPDIR to a folder on a larger disk"
    )
