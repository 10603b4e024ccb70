"""The report: the measurements as JSON, and a page of tables and plots made from that JSON alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.reporting import plots, tables

_LINE_LENGTH: Final = 200

Json = Mapping[str, Any]


def write_report(report: Json, output: Path) -> None:
    """Writes `output`.json, `output`.md and the plots, `output`-*.svg."""
    output.parent.mkdir(parents=True, exist_ok=True)
    output.with_suffix(".json").write_text(_dump(report) + "\n")
    pictures = _plot(report["scenarios"], output)
    output.with_suffix(".md").write_text(to_markdown(report, pictures))


def to_markdown(report: Json, pictures: Mapping[str, Sequence[str]]) -> str:
    """The page in Markdown. `pictures`: scenario -> file names."""
    machine = report["machine"]
    libraries = ", ".join(f"{name} {number}" for name, number in machine["libraries"].items())
    parts = [
        f"""# The request path under load

`make bench`, {machine["date"]}. {machine["processor"]}, {machine["cores"]} cores,
{machine["memory_gigabytes"]} GB, Linux {machine["kernel"]}, Python {machine["python"]}; {libraries}.

One worker has one core; h2load, Valkey and the probe share the others. Everything is on loopback, the catalogues are
synthetic, and the server runs with its defaults: deadline 50 ms. Each bundle ranks with a blend of content (0.3), and
a tenth of the users have no stored vector. At a given rate, latency counts from the moment a request was due
(`benchmarks/load/h2load.py` has the details). A full answer has status OK and no degraded reason.
""",
    ]
    if report["quick"]:
        parts.append("**A quick run on a tiny catalogue: it shows that the benchmark works, and measures nothing.**\n")
    parts.append(tables.catalogues(report["catalogues"]))
    for name, result in report["scenarios"].items():
        shown = "\n".join(f"![{picture}]({picture})" for picture in pictures.get(name, ()))
        seconds = report["scenario_seconds"].get(name)
        parts.append("\n\n".join(part for part in (tables.scenario(name, result, seconds), shown) if part))
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def _plot(scenarios: Json, output: Path) -> dict[str, list[str]]:
    """Draws the plots of the scenarios measured; returns scenario -> file names."""
    pictures: dict[str, list[str]] = {}
    scenarios = {name: result for name, result in scenarios.items() if "skipped" not in result}
    if "latency" in scenarios:
        path = output.with_name(f"{output.name}-latency.svg")
        plots.plot_latency(scenarios["latency"]["curves"], path)
        pictures["latency"] = [path.name]
    for scenario, title, event, marks in _events(scenarios):
        path = output.with_name(f"{output.name}-{title.lower().replace(' ', '-').replace(',', '')}.svg")
        plots.plot_event(title, event["timeline"], marks, path)
        pictures.setdefault(scenario, []).append(path.name)
    return pictures


def _events(scenarios: Json) -> Iterable[tuple[str, str, Json, dict[str, float | None]]]:
    """Scenario, title, result and marks of every result with a timeline."""
    for size, event in scenarios.get("hot_swap", {}).items():
        marks = {"alias": event["alias_moved_second"], "swap": event["swapped_second"]}
        yield "hot_swap", f"Hot swap {size}", event, marks
    for scenario, moments in {
        "store_killed": ("killed_second", "returned_second"),
        "registry_down": ("gone_second",),
        "worker_killed": ("killed_second", "new_worker_started_second"),
    }.items():
        event = scenarios.get(scenario, {})
        if "timeline" in event:
            marks = {moment.removesuffix("_second").replace("_", " "): event[moment] for moment in moments}
            yield scenario, scenario.replace("_", " ").capitalize(), event, marks
    for run in scenarios.get("overload", {}).get("runs", ()):
        begin, end = run["flood_seconds"]
        title = f"Overload {run['factor']}x, {run['connections']} connections"
        yield "overload", title, run, {"begins": begin, "ends": end}


def _dump(value: Any, indent: str = "") -> str:
    """JSON in which a value that fits on one line takes one line, so a timeline reads as a table."""
    line = json.dumps(value)
    if len(indent) + len(line) <= _LINE_LENGTH or not isinstance(value, dict | list) or not value:
        return line
    deeper = indent + "  "
    if isinstance(value, dict):
        inner = [f"{deeper}{json.dumps(key)}: {_dump(entry, deeper)}" for key, entry in value.items()]
        return "{\n" + ",\n".join(inner) + f"\n{indent}}}"
    return "[\n" + ",\n".join(deeper + _dump(entry, deeper) for entry in value) + f"\n{indent}]"
