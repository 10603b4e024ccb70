"""The gate decides from the serving engine's answers whether a new model may replace the champion.

Candidate and champion answer the same held-out users in the same run of the server's own check, so the gate judges the
answers that callers would get: through the index, the blend or ranker, and the policies. See
docs/decisions/0044-the-gate-judges-what-is-served.md and, for the choice of users,
docs/decisions/0003-gate-on-last-interactions.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from tandem.contract.served import Refused, Served, ServedBundle, ndcg
from trainer.config.train_config import GateConfig
from trainer.evaluation.metrics import CUTOFF, Interval, bootstrap_mean

NUM_SHOWN: Final = CUTOFF
"""Number of items shown to each held-out user."""
GATE_METRIC: Final = f"ndcg@{NUM_SHOWN}"


@dataclass(frozen=True)
class GateCheck:
    """A check of the gate."""

    name: str
    passed: bool
    found: str
    """The measured value, as text."""
    limit: str
    """The required value, as text."""

    def __str__(self) -> str:
        return f"{'passed' if self.passed else 'FAILED'}: {self.name}: {self.found}; limit: {self.limit}"


@dataclass(frozen=True)
class GateDecision:
    """The gate's decision with all its checks."""

    checks: tuple[GateCheck, ...]
    notes: tuple[str, ...] = ()
    """Remarks that did not affect the decision."""

    @property
    def passed(self) -> bool:
        """Whether the candidate may become the champion."""
        return all(check.passed for check in self.checks)

    @property
    def failures(self) -> tuple[GateCheck, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if not check.passed)

    def __str__(self) -> str:
        return "\n".join([f"gate: {'passed' if self.passed else 'REFUSED'}", *map(str, self.checks), *self.notes])


def decide(result: Served | Refused, limits: GateConfig, *, notes: tuple[str, ...] = ()) -> GateDecision:
    """Judges the result of the server's check. Without a champion in it, the checks against the champion are left
    out."""
    if isinstance(result, Refused):
        found = f"refused, {result.reason_kind}: {result.reason}"
        return GateDecision((GateCheck("the serving engine", False, found, "opens it and finds it sound"),), notes)
    candidate, champion = result.candidate, result.against
    checks = list(_absolute_checks(candidate, limits))
    if champion is not None:
        checks += _checks_against(candidate, champion, limits)
    elif result.against_problem:
        notes = (*notes, f"The champion was not compared with: {result.against_problem}")
    return GateDecision(tuple(checks), notes)


def relative_change(candidate: ServedBundle, champion: ServedBundle) -> Interval:
    """Change of the mean NDCG@10 as a share of the champion's, with its 95 % interval by paired bootstrap over users.

    Infinite if the champion finds no target and the candidate does; 0 if neither does.
    """
    change = bootstrap_mean(ndcg(candidate.ranks) - ndcg(champion.ranks))
    champion_mean = float(ndcg(champion.ranks).mean())
    if champion_mean == 0.0:
        return Interval(*(0.0 if value == 0.0 else float("inf") for value in (change.mean, change.low, change.high)))
    return Interval(change.mean / champion_mean, change.low / champion_mean, change.high / champion_mean)


def _absolute_checks(candidate: ServedBundle, limits: GateConfig) -> Iterator[GateCheck]:
    if candidate.exact_overlap is not None and candidate.recall_at_100 is not None:
        found = f"{candidate.exact_overlap:.4f} found, recall@100 of the index {candidate.recall_at_100:.4f}"
        yield GateCheck("golden queries", True, found, "the server's own")
    over_popularity = bootstrap_mean(ndcg(candidate.ranks) - ndcg(candidate.popularity_ranks))
    yield GateCheck(f"{GATE_METRIC} over popularity", over_popularity.mean > 0, str(over_popularity), "above 0")
    share = candidate.num_degraded_answers / len(candidate.ranks)
    found = ", ".join(f"{count} {reason}" for reason, count in candidate.degraded_answers.items()) or "none"
    yield GateCheck(
        "degraded answers",
        share <= limits.max_degraded_share,
        f"{found} of {len(candidate.ranks)}",
        f"at most {limits.max_degraded_share:.2%}",
    )


def _checks_against(candidate: ServedBundle, champion: ServedBundle, limits: GateConfig) -> Iterator[GateCheck]:
    change = relative_change(candidate, champion)
    found = f"{change.mean:+.2%} [{change.low:+.2%}, {change.high:+.2%}]"
    yield GateCheck(
        f"{GATE_METRIC}, change", change.mean >= -limits.max_loss, found, f"at least {-limits.max_loss:.2%}"
    )
    yield GateCheck(f"{GATE_METRIC}, worse beyond chance", change.high >= 0, found, "the interval reaches 0 or more")
    yield GateCheck(
        f"{GATE_METRIC}, worst case",
        change.low >= -limits.max_possible_loss,
        found,
        f"the interval begins at {-limits.max_possible_loss:.2%} or more",
    )
    least = limits.min_coverage_share * champion.coverage
    yield GateCheck(
        "coverage",
        candidate.coverage >= least,
        f"{candidate.coverage:.4f}, champion {champion.coverage:.4f}",
        f"at least {least:.4f}",
    )
    fewest = limits.min_catalogue_share * champion.num_items
    yield GateCheck(
        "catalogue",
        candidate.num_items >= fewest,
        f"{candidate.num_items} items, champion {champion.num_items}",
        f"at least {fewest:.0f}",
    )
    slowest = limits.max_latency_ratio * champion.latency_ms["p99"] + limits.latency_allowance_ms
    yield GateCheck(
        "latency, 99th percentile",
        candidate.latency_ms["p99"] <= slowest,
        f"{candidate.latency_ms['p99']:.2f} ms, champion {champion.latency_ms['p99']:.2f} ms",
        f"at most {slowest:.2f} ms",
    )
