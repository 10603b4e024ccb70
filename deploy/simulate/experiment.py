"""The demonstration's experiments: their files, and the report beside the truth.

Two layers: `new-model`, champion against challenger, and `placebo`, whose two arms are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq

from deploy.simulate.ledger import Ledger

NEW_MODEL: Final = "new-model"
PLACEBO: Final = "placebo"
CHAMPION: Final = "champion"
CHALLENGER: Final = "challenger"
NO_EXPERIMENTS: Final = "features: []\n"
_CTR: Final = "ctr"


def experiments_file(seed: int) -> str:
    """The experiments, as the server reads them; another seed mixes the users anew."""
    return f"""\
features:
  - name: model
    strategies:
      - parameters: {{rollout: 100, groupId: model-{seed}}}
        variants:
          - {{name: {CHAMPION}, payload: {{type: json, value: {{experiment: {NEW_MODEL}}}}}}}
          - {{name: {CHALLENGER}, payload: {{type: json, value: {{experiment: {NEW_MODEL}, model: {CHALLENGER}}}}}}}
  - name: nothing
    strategies:
      - parameters: {{rollout: 100, groupId: nothing-{seed}}}
        variants:
          - {{name: a, payload: {{type: json, value: {{experiment: {PLACEBO}}}}}}}
          - {{name: b, payload: {{type: json, value: {{experiment: {PLACEBO}}}}}}}
"""


def plans_file(planned_users: int) -> str:
    """The plans, as `feature_sync attribute` reads them. Simulated days pass within minutes, so no real day is
    waited for."""
    return f"""\
{NEW_MODEL}: {{control: {CHAMPION}, min_days: 0, planned_users: {planned_users}}}
{PLACEBO}: {{control: a, min_days: 0, planned_users: {planned_users}}}
"""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What the report says of one experiment, and what is true."""

    experiment: str
    control: str
    arm: str
    decision: str
    because: str
    true_lift: float
    """Of the click-through rate, relative: 0 for the placebo, else from the ledger's expectations."""
    lift: float | None
    """As the report estimates it; None: the report has none."""
    interval: tuple[float, float] | None
    """Of the lift, valid whenever one looks."""

    @property
    def holds_truth(self) -> bool:
        """Whether the interval contains the true lift."""
        return self.interval is not None and self.interval[0] <= self.true_lift <= self.interval[1]

    @property
    def is_right(self) -> bool:
        """Whether the verdict names the better arm; of equal arms it must name neither."""
        if self.true_lift == 0:
            return self.decision != "ship" and "it is worse" not in self.because
        return self.decision == ("ship" if self.true_lift > 0 else "stop")


def findings(report: Mapping[str, Any], ledger: Ledger) -> list[Finding]:
    """The verdicts of a report (the JSON object of `feature_sync attribute`) beside the truth."""
    found = []
    for experiment in report["experiments"]:
        result = experiment["result"]
        for arm in result["arms"] if result else ():
            (ctr,) = (metric for metric in arm["metrics"] if metric["metric"] == _CTR)
            lift = ctr["adjusted"] or ctr["unadjusted"] or {}
            interval = lift.get("anytime_relative")
            name = experiment["experiment"]
            truth = 0.0 if name == PLACEBO else ledger.true_lift(name, result["control"], arm["arm"])
            found.append(
                Finding(
                    experiment=name,
                    control=result["control"],
                    arm=arm["arm"],
                    decision=arm["verdict"]["decision"],
                    because=arm["verdict"]["because"],
                    true_lift=truth or 0.0,
                    lift=lift.get("relative"),
                    interval=(interval["lower"], interval["upper"]) if interval else None,
                )
            )
    return found


def told(finding: Finding) -> str:
    """A finding for people."""
    estimated = "none" if finding.lift is None else f"{finding.lift:+.1%}"
    if finding.interval:
        estimated += f" ({finding.interval[0]:+.1%} to {finding.interval[1]:+.1%})"
    inside = "holds the truth" if finding.holds_truth else "does not hold the truth"
    verdict = "right" if finding.is_right else "not that of the truth"
    return (
        f"  {finding.experiment}: {finding.arm} beside {finding.control}\n"
        f"    true lift of the click-through rate: {finding.true_lift:+.1%}\n"
        f"    as the report estimates it:          {estimated}; the interval {inside}\n"
        f"    verdict ({verdict}): {finding.decision}, because {finding.because}"
    )


def archived_rows(folder: Path) -> int:
    """Number of rows in an archive of feature_sync."""
    return sum(pq.read_metadata(file).num_rows for file in folder.glob("day=*/[0-9]*.parquet"))
