"""The report as one HTML page that needs no network. The only module of feature_sync that imports jinja2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from feature_sync.attribution.database import NOT_OWED, OWED
from feature_sync.attribution.plans import Analysed
from feature_sync.attribution.plots import (
    ctr_by_arm_and_day,
    ctr_by_position,
    has_lifts,
    lifts,
    plotly_js,
    rates_by_day,
)
from feature_sync.attribution.question import Question
from feature_sync.attribution.summaries import ALL, ARM, ARM_AND_DAY, Line, currencies

_ENVIRONMENT: Final = Environment(
    loader=PackageLoader("feature_sync.attribution", "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_TABLES: Final = ("arm", "scenario", "placement", "model", "policy", "answer_source", "day", "position")
_MAX_LINES: Final = 200
"""Lines of a table; the Parquet file has all."""
_WHY: Final[Mapping[str, str]] = {
    "by_request": "by the answer that the event names",
    "by_user_and_item": "by user and item",
    "answer_unknown": "the named answer has no impression",
    "of_another_user": "the named answer went to another user",
    "item_not_shown": "the named answer did not show the item",
    "outside_window": "outside of the window",
    "nothing_shown": "no answer is named, and none showed the item",
}


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Everything that a report says."""

    question: Question
    lines: Mapping[str, Sequence[Line]]
    events: Mapping[str, Mapping[str, int]]
    not_exposed: Sequence[Mapping[str, Any]]
    experiments: Sequence[Analysed]


def page(findings: Findings) -> str:
    """The page."""
    lines = findings.lines
    figures: dict[str, str] = {}
    if lines["day"]:
        figures["days"] = rates_by_day(lines["day"])
    if lines["position"]:
        figures["positions"] = ctr_by_position(lines["position"])
    for number, found in enumerate(findings.experiments):
        of_experiment = [line for line in lines[ARM_AND_DAY] if line.experiment == found.users.experiment]
        figures[f"arms-{number}"] = ctr_by_arm_and_day(of_experiment)
        if found.result is not None and has_lifts(found.result):
            figures[f"lifts-{number}"] = lifts(found.result)
    return _ENVIRONMENT.get_template("report.html.j2").render(
        question=findings.question,
        total=next(iter(lines[ALL]), None),
        tables={name: lines[name] for name in _TABLES if _is_told(lines[name])},
        max_lines=_MAX_LINES,
        arms=lines[ARM],
        currencies=currencies(lines[ALL]),
        events=findings.events,
        matches={name: _WHY[name] for name in (*OWED, *NOT_OWED)},
        num_owed=len(OWED),
        not_exposed=findings.not_exposed,
        experiments=findings.experiments,
        figures=figures,
        plotly_js=plotly_js(),
    )


def _is_told(lines: Sequence[Line]) -> bool:
    """Whether a table says more than the total: several values, or one with a name."""
    return len(lines) > 1 or any(line.value for line in lines)
