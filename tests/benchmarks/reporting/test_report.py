"""The page is made from the JSON report alone."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks.reporting.report import write_report
from benchmarks.reporting.tables import scenario, table
from benchmarks.reporting.targets import TARGETS
from benchmarks.scenarios import SCENARIOS

QUANTILES = {"p50": 1.5, "p95": 2.5, "p99": 12.25, "p99.9": 30.0, "max": 31.0}
SERVER = {
    "answered": 29_990,
    "refused": 3,
    "errors": 0,
    "degraded": 5,
    "degraded_by_reason": {"store_unavailable": 5},
    "server_p99_ms_of_accepted": 8.5,
}
LOAD = {
    "answers_per_second": 999.5,
    "offered_per_second": 1000,
    "failed": 1,
    "h2load_processes_crashed": 0,
    "from_send_ms": QUANTILES,
    "from_schedule_ms": QUANTILES,
}
PROBE = {"codes": {"OK": 599, "UNAVAILABLE": 1}, "errors": 1, "versions_went_back": 0, "from_schedule_ms": QUANTILES}
TIMELINE = {
    "load": [{"second": second, "answers": 1000, "p50_ms": 1.0, "p99_ms": 2.0} for second in range(3)],
    "server": [
        {"second": s, "answers": 1000, "degraded_share": 0.1, "refused": 1, "errors": 0} for s in (1.0, 2.0, 3.0)
    ],
    "probe": [{"second": second, "requests": 20, "errors": 0, "p99_ms": 2.0} for second in range(3)],
}
EVENT = {"load": LOAD, "server": SERVER, "probe": PROBE, "timeline": TIMELINE}
RESULTS: dict[str, Any] = {
    "throughput": {
        "medians": {
            "empty handler": {
                "in_flight": 32,
                "full_answers_per_second": 8000.0,
                "p99_ms": 4.0,
                "within_limits": True,
                "ratio_to_empty_handler": 1.0,
            },
            "tandem ml-1m": {
                "in_flight": 64,
                "full_answers_per_second": 4000.0,
                "p99_ms": 20.0,
                "within_limits": False,
                "ratio_to_empty_handler": 0.5,
            },
        },
        "rounds": [{}],
        "faiss": [{"catalogue": "1m", "nprobe": 16, "k": 10, "searches_per_second": 7000.0}],
    },
    "latency": {"curves": {"1m": {"points": [{**LOAD, "server": SERVER, "saturated": True}]}}},
    "steady": {"grpc": {**LOAD, "server": SERVER, "probe": PROBE, "resident_megabytes": 200.0}},
    "hot_swap": {"1m": {**EVENT, "alias_moved_second": 1.0, "swapped_second": None}},
    "store_killed": {
        **EVENT,
        "killed_second": 1.0,
        "returned_second": 2.0,
        "deadline_ms": 50,
        "slowest_answer_during_outage_ms": 22.0,
        "p99_ms_during_outage": 9.0,
        "seconds_until_full_answers": 0.4,
    },
    "registry_down": {**EVENT, "gone_second": 1.0, "p99_ms_before": 2.0, "p99_ms_after": None},
    "worker_killed": {"skipped": "the server has no TANDEM_WORKERS"},
    "overload": {
        "capacity_per_second": 4000.0,
        "runs": [
            {
                "factor": 5,
                "connections": 8,
                "load": LOAD,
                "goodput_per_second": 3900.0,
                "goodput_of_capacity": 0.975,
                "full_answers_per_second": 3800.0,
                "refused_per_second": 16_000.0,
                "ended_by_transport_per_second": 0.0,
                "server": SERVER,
                "probe": PROBE,
                "resident_megabytes": {"before": 200.0, "peak": 220.0, "after": 201.0},
                "seconds_until_normal": 0.2,
                "flood_seconds": [1.0, 2.0],
                "timeline": {"server": TIMELINE["server"], "probe": TIMELINE["probe"]},
            }
        ],
    },
    "filters": {
        "1m": {
            "kinds": {
                "unfiltered": {
                    **QUANTILES,
                    "ratio_to_unfiltered": 1.0,
                    "failures": {},
                    "degraded": 0,
                    "answers_short_of_items": 0,
                },
                "exclude 10,000 ids": {
                    **dict.fromkeys(QUANTILES),
                    "ratio_to_unfiltered": None,
                    "failures": {"INVALID_ARGUMENT": 330},
                    "degraded": 0,
                    "answers_short_of_items": 0,
                },
            }
        }
    },
}
REPORT = {
    "machine": {
        "processor": "a processor",
        "cores": 2,
        "memory_gigabytes": 16.0,
        "kernel": "6.1",
        "python": "3.11.7",
        "libraries": {"grpcio": "1.85.1"},
        "date": "2026-01-01 00:00 UTC",
    },
    "quick": False,
    "catalogues": [
        {
            "name": "1m",
            "num_items": 1_000_000,
            "dim": 64,
            "index": "IVF4096,SQ8",
            "nprobe": 16,
            "recall_at_100": 0.951,
            "build_seconds": 100.7,
        }
    ],
    "scenario_seconds": dict.fromkeys(RESULTS, 10.0),
    "scenarios": RESULTS,
}


def test_every_scenario_has_a_target_and_a_section() -> None:
    assert set(SCENARIOS) == set(TARGETS) == set(RESULTS)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("throughput", "| tandem ml-1m | 64 | 4,000 | 20 | no | 0.500 |"),
        ("latency", "| 1m | 1,000 | 1,000 | 1.50 | 2.50 | 12 | 30 | 31 | 12 | 5 | 3 | 0 | saturated |"),
        ("steady", "The server had no HTTP port."),
        ("hot_swap", "| 1m | 1.0 | - |"),
        ("store_killed", "| degraded by reason | store_unavailable 5 |"),
        ("registry_down", "| P99 after, ms | - |"),
        ("worker_killed", "Not measured: the server has no TANDEM_WORKERS."),
        ("overload", "| 5x | 8 | 1,000 | 3,900 | 0.97 |"),
        ("filters", "INVALID_ARGUMENT 330"),
    ],
)
def test_a_section_shows_what_was_measured(name: str, shown: str) -> None:
    section = scenario(name, RESULTS[name], 12.0)
    assert shown in section
    assert f"Target: {TARGETS[name]}. Took 12 s." in section


def test_rows_of_a_table_have_the_columns_of_its_header() -> None:
    for name, result in RESULTS.items():
        for block in scenario(name, result, None).split("\n\n"):
            if block.startswith("|"):
                assert len({line.count("|") for line in block.splitlines()}) == 1, name
    assert table(("a", "b"), [(1, None)]) == "| a | b |\n| --- | --- |\n| 1 | - |"


def test_the_report_is_json_a_page_and_small_plots(tmp_path) -> None:
    output = tmp_path / "docs" / "request-path"
    write_report(REPORT, output)
    assert json.loads(output.with_suffix(".json").read_text()) == REPORT
    page = output.with_suffix(".md").read_text()
    pictures = sorted(path.name for path in output.parent.glob("*.svg"))
    assert pictures == [
        "request-path-hot-swap-1m.svg",
        "request-path-latency.svg",
        "request-path-overload-5x-8-connections.svg",
        "request-path-registry-down.svg",
        "request-path-store-killed.svg",
    ]
    for picture in pictures:
        assert f"![{picture}]({picture})" in page
        assert output.with_name(picture).stat().st_size < 100_000


def test_the_same_numbers_give_the_same_files(tmp_path) -> None:
    for name in ("first", "second"):
        write_report(REPORT, tmp_path / name / "request-path")
    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes()


def test_a_failed_scenario_is_reported_and_does_not_affect_the_rest(tmp_path) -> None:
    failed = {"skipped": "it failed: OSError('no')", "failed": True}
    write_report({**REPORT, "scenarios": dict.fromkeys(RESULTS, failed)}, tmp_path / "request-path")
    assert (tmp_path / "request-path.md").read_text().count("Not measured: it failed: OSError('no').") == len(RESULTS)
