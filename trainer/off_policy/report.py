"""The result of a replayed log, in words and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any, Final

from tandem.contract.numbers import finite_json
from trainer.off_policy.estimates import CONFIDENCE, Estimate, Estimates
from trainer.off_policy.judged import POSITION_BASED
from trainer.off_policy.replay_log import Result
from trainer.off_policy.verdict import BETTER, CANNOT_SAY, NO_DIFFERENCE, WORSE
from trainer.results.markdown import markdown_table

_UNITS: Final = {
    "click": "clicked items",
    "add_to_cart": "items added to the cart",
    "purchase": "bought items",
    "rating": "rated items",
    "dwell": "seconds of dwelling",
}
_NAMES: Final = {
    "dr": "doubly robust",
    "snips": "self-normalised inverse propensities (SNIPS)",
    "ips": "inverse propensities (IPS)",
    "logged": "as logged",
    "difference": "doubly robust less as logged",
}
_MAX_DAYS_SHOWN: Final = 10


def to_text(result: Result) -> str:
    """The result for people, in Markdown."""
    blocks = [f"**{verdict_text(result)}**"]
    if result.estimates is not None:
        blocks += [_estimates_table(result.estimates), _support_text(result, result.estimates)]
    return "\n\n".join([*blocks, *_log_texts(result)])


def verdict_text(result: Result) -> str:
    """One sentence."""
    if result.verdict.decision == CANNOT_SAY:
        return f"Cannot say, because {'; and '.join(result.verdict.reasons)}."
    assert result.estimates is not None
    estimates = result.estimates
    said = {
        BETTER: "It would have earned more",
        WORSE: "It would have earned less",
        NO_DIFFERENCE: "No difference shows",
    }[result.verdict.decision]
    return (
        f"{said}: {_interval(estimates.dr)} {_UNITS[result.options.event_type]} per answer, "
        f"{_interval(estimates.logged)} as logged, difference {_interval(estimates.difference, sign='+')} "
        f"({CONFIDENCE:.0%} intervals)."
    )


def to_json(result: Result) -> str:
    """Everything, for a file or a program."""
    return finite_json(_to_dict(result), indent=2)


def _to_dict(result: Result) -> dict[str, Any]:
    orders, estimates = result.orders, result.estimates
    return {
        "decision": result.verdict.decision,
        "reasons": result.verdict.reasons,
        "model_version": None if orders is None else orders.model_version,
        "policy_fingerprint": None if orders is None else orders.policy_fingerprint,
        "exploration": None if orders is None else orders.exploration,
        "options": asdict(result.options),
        "estimates": None if estimates is None else {name: _numbers(one) for name, one in estimates.by_name().items()},
        "support": None
        if estimates is None
        else {
            **{key: value for key, value in vars(estimates.support).items() if key != "supported"},
            "supported": _numbers(estimates.support.supported),
        },
        "log": {
            "num_read": result.log.num_read,
            "num_judged": len(result.log.answers),
            "left_out": dict(result.log.left_out),
            "missing_days": result.log.missing_days,
            "model_versions": dict(result.versions),
            "num_answers_without_history": result.num_without_history,
            "num_slots_with_unknown_items": result.num_unknown_items,
            "num_degraded_replays": 0 if orders is None else int(orders.degraded.sum()),
        },
        "events": {"num_counted": result.rewards.num_events, "left_out": dict(result.rewards.left_out)},
    }


def _numbers(estimate: Estimate) -> dict[str, float]:
    return {
        "value": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "standard_error": estimate.standard_error,
    }


def _interval(estimate: Estimate, *, sign: str = "") -> str:
    return f"{estimate.value:{sign}.4f} [{estimate.low:{sign}.4f}, {estimate.high:{sign}.4f}]"


def _estimates_table(estimates: Estimates) -> str:
    by_name = estimates.by_name()
    rows = ([name, _interval(by_name[field])] for field, name in _NAMES.items())
    return markdown_table(["estimate", f"per answer, {CONFIDENCE:.0%} interval"], rows)


def _support_text(result: Result, estimates: Estimates) -> str:
    support = estimates.support
    clicks = (
        "what an item earns is its appeal to the user times how far its position is looked at"
        if result.options.click_model == POSITION_BASED
        else "what an item earns at a position depends on no other item of the answer"
    )
    clipped = (
        f"{support.num_clipped_slots:,} weights above {support.max_weight:,.0f} were clipped, "
        f"{support.clipped_share:.1%} of all weight"
        if support.num_clipped_slots
        else f"no weight is above the limit of {support.max_weight:,.0f}"
    )
    return (
        f"Assumed: {clicks}. {support.num_answers:,} answers to {support.num_users:,} users weigh as much as "
        f"{support.effective_users:,.0f} users with equal weights, the rewards as {support.effective_rewards:,.0f}. "
        f"{support.num_matching_slots / support.num_slots:.1%} of the logged slots might have been shown by the judged "
        f"policy, and the log speaks about {support.supported.value:.1%} of what it would show; {clipped}."
    )


def _log_texts(result: Result) -> Iterator[str]:
    log, rewards = result.log, result.rewards
    yield f"Judged: {len(log.answers):,} of {log.num_read:,} answers{_left_out('answers', log.left_out)}."
    unit = f"events of type {result.options.event_type}"
    yield f"Counted: {rewards.num_events:,} {unit}{_left_out('events', rewards.left_out)}."
    notes = []
    if log.missing_days:
        shown = ", ".join(log.missing_days[:_MAX_DAYS_SHOWN])
        more = len(log.missing_days) - _MAX_DAYS_SHOWN
        notes.append(f"Days without a file: {shown}{f' and {more} more' if more > 0 else ''}.")
    if result.num_without_history:
        notes.append(
            f"{result.num_without_history:,} answers went to users without history in the prepared data at that time: "
            "they are judged as answers to new users."
        )
    if result.num_unknown_items:
        notes.append(
            f"{result.num_unknown_items:,} logged slots show an item that the judged policy has in no pool: their "
            "weight is 0."
        )
    if result.orders is not None and (num_degraded := int(result.orders.degraded.sum())):
        notes.append(f"{num_degraded:,} answers of the judged policy were degraded by the serving engine.")
    if notes:
        yield " ".join(notes)


def _left_out(what: str, counts: Mapping[str, int]) -> str:
    parts = [f"{count:,} {reason}" for reason, count in sorted(counts.items(), key=lambda pair: -pair[1])]
    return f"; left out: {what} {', '.join(parts)}" if parts else ""
