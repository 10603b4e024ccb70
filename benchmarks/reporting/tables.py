"""The tables of the report, one function for each scenario: from JSON to Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from benchmarks.reporting.targets import TARGETS

Json = Mapping[str, Any]

_TITLES: Final = {
    "throughput": "Throughput",
    "latency": "Latency against rate",
    "steady": "1,000 requests a second for a minute",
    "hot_swap": "Hot swap",
    "store_killed": "Store killed",
    "registry_down": "Registry down",
    "worker_killed": "Worker killed",
    "overload": "Overload",
    "filters": "Filters",
}


def scenario(name: str, result: Json, seconds: float | None) -> str:
    """The section of a scenario: heading, target and tables, or the reason why it was not measured."""
    took = "" if seconds is None else f" Took {seconds:.0f} s."
    head = f"## {_TITLES[name]}\n\nTarget: {TARGETS[name]}.{took}"
    if "skipped" in result:
        return f"{head}\n\nNot measured: {result['skipped']}."
    return f"{head}\n\n{_SECTIONS[name](result)}"


def catalogues(rows: Sequence[Json]) -> str:
    """The table of the catalogues built."""
    return table(
        ("catalogue", "items", "dimension", "index", "nprobe", "recall@100", "built in, s"),
        [
            (
                row["name"],
                f"{row['num_items']:,}",
                row["dim"],
                row["index"],
                row["nprobe"],
                f"{row['recall_at_100']:.3f}",
                f"{row['build_seconds']:.0f}",
            )
            for row in rows
        ],
    )


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _throughput(result: Json) -> str:
    rows = [
        (
            name,
            row["in_flight"],
            f"{row['full_answers_per_second']:,.0f}",
            _ms(row["p99_ms"]),
            "yes" if row["within_limits"] else "no",
            f"{row['ratio_to_empty_handler']:.3f}",
        )
        for name, row in result["medians"].items()
    ]
    servers = table(
        ("server", "in flight", "full answers/s", "P99, ms", "within limits in every round", "of the empty handler"),
        rows,
    )
    faiss = table(
        ("FAISS alone", "nprobe", "k", "searches/s"),
        [(row["catalogue"], row["nprobe"], row["k"], f"{row['searches_per_second']:,.0f}") for row in result["faiss"]],
    )
    rounds = len(result["rounds"])
    return f"""Closed loop, median of {rounds} rounds in which the servers take turns; a ratio compares servers within
one round. `in flight` is the number of concurrent requests that gave the most full answers within the limits (P99 below
50 ms, no failure, at most one degraded answer in a thousand) in a sweep before; a server that never kept the limits is
shown at its best. `empty handler` returns bytes made in advance; `naive` is `benchmarks/bounds/naive_server.py`, which
computes no blend.

{servers}

{faiss}"""


def _latency(result: Json) -> str:
    rows = [
        (
            size,
            f"{point['offered_per_second']:,.0f}",
            f"{point['answers_per_second']:,.0f}",
            *_quantiles(point["from_schedule_ms"]),
            _ms(point["from_send_ms"]["p99"]),
            *_counts(point["server"]),
            "saturated" if point["saturated"] else "",
        )
        for size, curve in result["curves"].items()
        for point in curve["points"]
    ]
    header = ("catalogue", "offered/s", "answers/s", "P50", "P95", "P99", "P99.9", "max", "P99 from send")
    return table((*header, "degraded", "refused", "errors", ""), rows)


def _steady(result: Json) -> str:
    rows = [
        (
            protocol,
            f"{run['answers_per_second']:,.0f}",
            *_quantiles(run["from_schedule_ms"]),
            *_counts(run["server"]),
            run["failed"],
            run["probe"]["errors"],
            run["resident_megabytes"],
        )
        for protocol, run in result.items()
    ]
    header = ("protocol", "answers/s", "P50", "P95", "P99", "P99.9", "max", "degraded", "refused", "errors", "failed")
    page = table((*header, "errors of the probe", "worker, MB"), rows)
    return page if "http" in result else f"{page}\n\nThe server had no HTTP port."


def _hot_swap(result: Json) -> str:
    rows = [
        (
            size,
            event["alias_moved_second"],
            event["swapped_second"],
            _ms(event.get("p99_ms_before_alias_moved")),
            _ms(event.get("p99_ms_from_alias_to_swap")),
            _ms(event.get("p99_ms_around_swap")),
            _ms(event.get("p99_ms_outside")),
            event["server"]["errors"] + event["load"]["failed"],
            event["server"]["degraded"],
            event["probe"]["versions_went_back"],
        )
        for size, event in result.items()
    ]
    header = (
        "catalogue",
        "alias moved, s",
        "swapped, s",
        "P99 before",
        "P99 while preparing",
        "P99 in 5 s around swap",
    )
    return table((*header, "P99 outside these 5 s", "errors", "degraded", "answers of an older model"), rows)


def _store_killed(result: Json) -> str:
    return _facts(
        result,
        {
            "P99 during the outage, ms": _ms(result["p99_ms_during_outage"]),
            "slowest answer of the probe during it, ms": _ms(result["slowest_answer_during_outage_ms"]),
            "deadline, ms": result["deadline_ms"],
            "out for, s": round(result["returned_second"] - result["killed_second"], 1),
            "from its return to full answers, s": result["seconds_until_full_answers"],
        },
    )


def _registry_down(result: Json) -> str:
    facts = {"P99 before, ms": _ms(result["p99_ms_before"]), "P99 after, ms": _ms(result["p99_ms_after"])}
    return _facts(result, facts)


def _worker_killed(result: Json) -> str:
    return _facts(
        result,
        {
            "killed, s": result["killed_second"],
            "new process, s": result["new_worker_started_second"],
            "last error of the probe, s": result["probe_errors_until_second"],
            "answers that h2load did not get or ask for, see `benchmarks/scenarios/events.py`": result[
                "answers_missing"
            ],
        },
    )


def _facts(result: Json, own: Mapping[str, object]) -> str:
    server = result["server"]
    facts = {
        **own,
        "answers": f"{server['answered']:,}",
        "degraded": f"{server['degraded']:,}",
        "degraded by reason": ", ".join(f"{reason} {n:,}" for reason, n in server["degraded_by_reason"].items())
        or "none",
        "errors counted by the server": server["errors"],
        "requests that failed in h2load": result["load"]["failed"],
        "h2load processes that crashed with their connection": result["load"]["h2load_processes_crashed"],
        "answers of the probe by status": ", ".join(f"{code} {n}" for code, n in result["probe"]["codes"].items()),
    }
    return table(("what", "measured"), facts.items())


def _overload(result: Json) -> str:
    rows = [
        (
            f"{run['factor']}x",
            run["connections"],
            f"{run['load']['offered_per_second']:,.0f}",
            f"{run['goodput_per_second']:,.0f}",
            f"{run['goodput_of_capacity']:.2f}",
            f"{run['full_answers_per_second']:,.0f}",
            f"{run['refused_per_second']:,.0f}",
            f"{run['ended_by_transport_per_second']:,.0f}",
            _ms(run["server"]["server_p99_ms_of_accepted"]),
            _ms(run["probe"]["from_schedule_ms"]["p99"]),
            "/".join(f"{run['resident_megabytes'][when]:.0f}" for when in ("before", "peak", "after")),
            run["seconds_until_normal"],
        )
        for run in result["runs"]
    ]
    header = ("load", "connections", "offered/s", "OK answers/s", "of capacity", "full answers/s", "refused/s")
    more = ("ended by transport/s", "P99 of accepted in the server, ms", "P99 of the probe's OK answers, ms")
    return f"""Capacity {result["capacity_per_second"]:,.0f} answers/s. A refused request takes the server almost no
time, so refusals count as the fastest requests when the P99 of accepted requests is read from the server's histogram.
That histogram excludes the time a request waits in gRPC's core before the server's code sees it; the probe measures the
whole wait of a caller. `ended by transport` counts requests that gRPC's core ended by itself.

{table((*header, *more, "worker before/peak/after, MB", "normal again after, s"), rows)}"""


def _filters(result: Json) -> str:
    rows = [
        (
            size,
            kind,
            _ms(row["p50"]),
            _ms(row["p95"]),
            _ms(row["p99"]),
            row["ratio_to_unfiltered"],
            row["degraded"],
            row["answers_short_of_items"],
            ", ".join(f"{code} {n}" for code, n in row["failures"].items()) or 0,
        )
        for size, measured in result.items()
        for kind, row in measured["kinds"].items()
    ]
    header = ("catalogue", "filter", "P50, ms", "P95", "P99", "median of unfiltered's")
    return table((*header, "degraded", "answers with fewer than 10 items", "failures"), rows)


def _quantiles(values: Json) -> list[str]:
    return [_ms(values[name]) for name in ("p50", "p95", "p99", "p99.9", "max")]


def _counts(server: Json) -> list[str]:
    return [f"{server[name]:,}" for name in ("degraded", "refused", "errors")]


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}" if value < 10 else f"{value:,.0f}"


def _cell(value: object) -> str:
    return "-" if value is None else str(value)


_SECTIONS: Final[Mapping[str, Callable[[Json], str]]] = {
    "throughput": _throughput,
    "latency": _latency,
    "steady": _steady,
    "hot_swap": _hot_swap,
    "store_killed": _store_killed,
    "registry_down": _registry_down,
    "worker_killed": _worker_killed,
    "overload": _overload,
    "filters": _filters,
}
