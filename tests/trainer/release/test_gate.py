"""Decisions of the gate from given measurements."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tandem.contract.served import NOT_SHOWN, Refused, Served, ServedBundle
from trainer.config.train_config import GateConfig
from trainer.release.gate import GateDecision, decide, relative_change

GENERATOR = np.random.default_rng(0)
NUM_USERS = 2_000
LIMITS = GateConfig()
HIT_SHARE = 0.4
NONE = np.full(NUM_USERS, NOT_SHOWN)


def ranks(hit_share: float, *, seed: int = 0, num_users: int = NUM_USERS) -> np.ndarray:
    """Ranks: the held-out item is first for `hit_share` of the users, and not shown to the other users."""
    return np.where(np.random.default_rng(seed).random(num_users) < hit_share, 0, NOT_SHOWN)


def spoiled(good: np.ndarray, share: float) -> np.ndarray:
    """The same ranks, but with `share` of the hits lost."""
    hits = np.flatnonzero(good != NOT_SHOWN)
    worse = good.copy()
    worse[hits[: round(share * len(hits))]] = NOT_SHOWN
    return worse


CHAMPION = ServedBundle(
    model_version="champion",
    num_items=1_000,
    ranks=ranks(HIT_SHARE),
    popularity_ranks=ranks(0.05, seed=1),
    num_recommended_items=600,
    novelty_bits=5.0,
    latency_ms={"p50": 2.0, "p90": 3.0, "p99": 5.0},
    degraded_answers={},
    answers_by_source={"RANKED": NUM_USERS},
    exact_overlap=1.0,
    recall_at_100=0.99,
)


def decided(*, against: ServedBundle | None = CHAMPION, limits: GateConfig = LIMITS, **changes: object) -> GateDecision:
    candidate = replace(CHAMPION, model_version="candidate", **changes)
    return decide(Served(num_shown=10, candidate=candidate, against=against), limits)


def failed(decision: GateDecision) -> list[str]:
    return [check.name for check in decision.failures]


def test_an_equal_candidate_passes() -> None:
    decision = decided()
    assert decision.passed
    assert str(decision).startswith("gate: passed\npassed: golden queries")


def test_the_bootstrap_is_paired() -> None:
    """Users differ far more than models: an unpaired interval of this change would reach below 0."""
    better = CHAMPION.ranks.copy()
    better[np.flatnonzero(better == NOT_SHOWN)[:20]] = 0
    change = relative_change(replace(CHAMPION, ranks=better), CHAMPION)
    assert change.mean == pytest.approx(20 / (CHAMPION.ranks == 0).sum())
    assert 0 < change.low < change.mean < change.high < 0.05


def test_a_loss_beyond_chance_is_refused_however_small() -> None:
    decision = decided(ranks=spoiled(CHAMPION.ranks, 0.02))
    assert failed(decision) == ["ndcg@10, worse beyond chance"]


def test_a_large_loss_is_refused_even_where_it_may_be_chance() -> None:
    few_users = {"ranks": ranks(0.4, num_users=60), "popularity_ranks": NONE[:60]}
    candidate_ranks = spoiled(np.roll(few_users["ranks"], 7), 0.1)
    against = replace(CHAMPION, **few_users)
    decision = decided(
        against=against, limits=replace_limits(max_possible_loss=5), ranks=candidate_ranks, popularity_ranks=NONE[:60]
    )
    assert failed(decision) == ["ndcg@10, change"]
    wide = decided(against=against, ranks=candidate_ranks, popularity_ranks=NONE[:60])
    assert failed(wide) == ["ndcg@10, change", "ndcg@10, worst case"]


def test_noise_without_a_loss_passes() -> None:
    assert decided(ranks=ranks(HIT_SHARE + 0.005, seed=5)).passed


def replace_limits(**changes: float) -> GateConfig:
    return LIMITS.model_copy(update=changes)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"popularity_ranks": CHAMPION.ranks}, "ndcg@10 over popularity"),
        ({"num_recommended_items": 400}, "coverage"),
        ({"num_items": 800, "num_recommended_items": 500}, "catalogue"),
        ({"latency_ms": {"p50": 2.0, "p90": 9.0, "p99": 25.5}}, "latency, 99th percentile"),
        ({"degraded_answers": {"ranker_failed": 1}}, "degraded answers"),
    ],
)
def test_each_limit_refuses(changes, name) -> None:
    decision = decided(**changes)
    assert failed(decision) == [name]
    assert "REFUSED" in str(decision)


def test_limits_are_what_the_configuration_says() -> None:
    lenient = replace_limits(
        min_coverage_share=0.1, min_catalogue_share=0.1, max_latency_ratio=10.0, max_degraded_share=0.1, max_loss=1.0
    )
    assert decided(
        limits=lenient,
        num_recommended_items=100,
        num_items=200,
        latency_ms={"p50": 2.0, "p90": 9.0, "p99": 45.0},
        degraded_answers={"ranker_failed": 3},
    ).passed


def test_the_first_candidate_needs_to_beat_popularity_only() -> None:
    assert decided(against=None, num_recommended_items=1).passed
    assert failed(decided(against=None, ranks=NONE)) == ["ndcg@10 over popularity"]


def test_a_champion_that_finds_nothing_is_beaten_by_anything() -> None:
    useless = replace(CHAMPION, ranks=NONE)
    assert decided(against=useless).passed
    assert relative_change(useless, useless).mean == 0.0


def test_a_bundle_that_is_refused_fails_with_its_reason() -> None:
    decision = decide(Refused("golden_queries", "the user tower makes NaN"), LIMITS, notes=("A note.",))
    assert not decision.passed
    assert "golden_queries: the user tower makes NaN" in str(decision)
    assert "A note." in str(decision)


def test_a_champion_that_could_not_be_opened_is_noted() -> None:
    served = Served(num_shown=10, candidate=CHAMPION, against_problem="/champion: index.faiss is missing")
    decision = decide(served, LIMITS)
    assert decision.passed
    assert "index.faiss is missing" in decision.notes[0]
