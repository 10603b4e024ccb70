"""A ledger for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from deploy.simulate.ledger import Ledger, Totals
from deploy.simulate.world import CURRENCY

_POSITIONS: Final = 10


def summary(ledger: Ledger) -> str:
    """What was asked, shown and done, in a few lines."""
    total = ledger.all
    lines = [
        f"visits        {ledger.visits:>10,}",
        f"answers       {total.answers:>10,}  {_counts(ledger.sources)}",
        f"items shown   {total.shown:>10,}"
        + (f"  {ledger.unknown_items:,} of them unknown to the world" if ledger.unknown_items else ""),
        f"clicked       {total.clicked:>10,}  {total.ctr:.2%} of the items shown; {total.true_ctr:.2%} expected",
        f"purchases     {total.purchases:>10,}  {total.revenue:,.2f} {CURRENCY}",
        f"events        {sum(ledger.events.values()):>10,}  {_counts(ledger.events)}"
        + (f"; {ledger.events_lost:,} could not be recorded" if ledger.events_lost else ""),
        f"errors        {sum(ledger.errors.values()):>10,}  {_counts(ledger.errors)}",
        f"degraded      {ledger.degraded_answers:>10,}  {_counts(ledger.degraded)}",
    ]
    if ledger.not_exposed:
        lines.append(f"not exposed   {ledger.not_exposed:>10,}  answers in place of an arm that could not answer")
    if best := ledger.alternatives["best"]:
        others = ", ".join(f"{name} {clicks / best:.0%}" for name, clicks in ledger.alternatives.items())
        lines.append(
            f"of the best   {total.expected_clicks / best:>10.0%}  of what the best lists would earn; {others}"
        )
    lines += [_arm(experiment, arm, totals) for (experiment, arm), totals in sorted(ledger.arms.items())]
    rates = [
        f"{ledger.clicked_at[position] / ledger.shown_at[position]:.1%}"
        for position in sorted(ledger.shown_at)[:_POSITIONS]
    ]
    if rates:
        lines.append(f"CTR by position: {' '.join(rates)}")
    return "\n".join(line.rstrip() for line in lines)


def _arm(experiment: str, arm: str, totals: Totals) -> str:
    return (
        f"arm {experiment}: {arm}: {len(totals.units):,} users, {totals.shown:,} items shown, {totals.ctr:.2%} clicked "
        f"({totals.true_ctr:.2%} expected), {totals.purchases:,} purchases, {totals.revenue:,.2f} {CURRENCY} "
        f"({totals.expected_revenue:,.2f} expected)"
    )


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number:,} {name}" for name, number in sorted(counts.items()))
