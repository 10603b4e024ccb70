import numpy as np

from trainer.gate import ChampionComparison, decide

GENERATOR = np.random.default_rng(0)
GOOD = GENERATOR.uniform(0.1, 0.3, 500)
BAD = GOOD - GENERATOR.uniform(0.02, 0.06, 500)
EQUAL = GOOD + GENERATOR.normal(0, 0.05, 500)


def _against(champion):
    return ChampionComparison(champion_version="7", candidate=GOOD, champion=champion)


def test_first_model_needs_to_beat_popularity_only() -> None:
    assert decide(validation=GOOD, validation_popularity=BAD, comparison=None).promoted
    refused = decide(validation=BAD, validation_popularity=GOOD, comparison=None)
    assert not refused.promoted
    assert "FAILED" in str(refused)
    assert "popularity" in str(refused)


def test_champion_is_replaced_by_a_better_or_equal_model() -> None:
    assert decide(validation=GOOD, validation_popularity=BAD, comparison=_against(BAD)).promoted
    assert decide(validation=GOOD, validation_popularity=BAD, comparison=_against(EQUAL)).promoted


def test_champion_stays_when_the_candidate_is_worse_beyond_noise() -> None:
    decision = decide(validation=GOOD, validation_popularity=BAD, comparison=_against(GOOD + 0.05))
    assert not decision.promoted
    assert "champion 7" in str(decision)
