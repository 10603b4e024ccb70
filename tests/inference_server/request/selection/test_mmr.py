"""Diversity: the greedy choice against its definition, computed a second time, slowly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_server.request.selection.mmr import diversify


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    norms = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(first @ second) / norms if norms else 0.0


def worth(position: int, chosen: list[int], scores: np.ndarray, vectors: np.ndarray, diversity: float) -> float:
    """The value of one candidate by the definition, in float64."""
    width = float(scores.max() - scores.min())
    share = float(scores[position] - scores.min()) / width if width else 0.0
    similarity = max((cosine(vectors[position], vectors[earlier]) for earlier in chosen), default=0.0)
    return (1.0 - diversity) * share - diversity * similarity


@st.composite
def candidates(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Few distinct values, so that ties, equal and opposite vectors and zeros are common."""
    num = draw(st.integers(0, 12))
    scores = draw(st.lists(st.sampled_from([-2.0, 0.0, 0.25, 1.0, 3.0]), min_size=num, max_size=num))
    parts = st.sampled_from([-1.0, 0.0, 0.0, 1.0, 2.0])
    vectors = draw(st.lists(st.lists(parts, min_size=3, max_size=3), min_size=num, max_size=num))
    return np.array(scores, dtype=np.float32), np.array(vectors, dtype=np.float32).reshape(num, 3)


@given(pool=candidates(), diversity=st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]), num_items=st.integers(0, 14))
def test_each_position_has_a_best_candidate_by_the_definition(
    pool: tuple[np.ndarray, np.ndarray], diversity: float, num_items: int
) -> None:
    scores, vectors = pool
    order = diversify(scores, vectors, diversity=diversity, num_items=num_items)
    assert order.dtype == np.int64
    assert len(order) == min(num_items, len(scores))
    chosen = order.tolist()
    assert len(set(chosen)) == len(chosen)
    if chosen:
        assert chosen[0] == int(np.argmax(scores))
    for num_before in range(1, len(chosen)):
        before = chosen[:num_before]
        worths = {
            position: worth(position, before, scores, vectors, diversity)
            for position in range(len(scores))
            if position not in before
        }
        assert worths[chosen[num_before]] == pytest.approx(max(worths.values()), abs=1e-5)


@given(pool=candidates(), num_items=st.integers(0, 14))
def test_without_diversity_it_is_the_order_by_score_then_position(
    pool: tuple[np.ndarray, np.ndarray], num_items: int
) -> None:
    scores, vectors = pool
    expected = sorted(range(len(scores)), key=lambda position: (-scores[position], position))[:num_items]
    assert diversify(scores, vectors, diversity=0.0, num_items=num_items).tolist() == expected


@given(pool=candidates(), diversity=st.floats(0.0, 1.0), num_items=st.integers(0, 14))
def test_a_shorter_answer_is_the_beginning_of_a_longer_one(
    pool: tuple[np.ndarray, np.ndarray], diversity: float, num_items: int
) -> None:
    scores, vectors = pool
    longest = diversify(scores, vectors, diversity=diversity, num_items=len(scores))
    shorter = diversify(scores, vectors, diversity=diversity, num_items=num_items)
    assert shorter.tolist() == longest[:num_items].tolist()


@given(diversity=st.floats(0.0, 1.0), num_items=st.integers(1, 20))
def test_of_equals_the_lower_position_comes_first(diversity: float, num_items: int) -> None:
    scores = np.ones(20, dtype=np.float32)
    vectors = np.tile(np.array([[3.0, 4.0]], dtype=np.float32), (20, 1))
    order = diversify(scores, vectors, diversity=diversity, num_items=num_items)
    assert order.tolist() == list(range(num_items))


def test_full_diversity_takes_each_direction_before_it_repeats_one() -> None:
    scores = np.linspace(1.0, 0.0, 12, dtype=np.float32)
    vectors = np.repeat(np.eye(4, dtype=np.float32), 3, axis=0)
    order = diversify(scores, vectors, diversity=1.0, num_items=4)
    assert order.tolist() == [0, 3, 6, 9]


def test_length_of_vectors_does_not_matter() -> None:
    rng = np.random.default_rng(5)
    scores = rng.random(40, dtype=np.float32)
    vectors = rng.standard_normal((40, 8)).astype(np.float32)
    longer = vectors * rng.uniform(0.5, 100.0, (40, 1)).astype(np.float32)
    order = diversify(scores, vectors, diversity=0.4, num_items=20)
    order_of_longer = diversify(scores, longer, diversity=0.4, num_items=20)
    assert order.tolist() == order_of_longer.tolist()


def test_more_diversity_makes_more_unlike_answers() -> None:
    rng = np.random.default_rng(6)
    scores = rng.random(100, dtype=np.float32)
    vectors = rng.standard_normal((100, 8)).astype(np.float32)

    def mean_similarity(diversity: float) -> float:
        chosen = vectors[diversify(scores, vectors, diversity=diversity, num_items=10)]
        return float(np.mean([cosine(first, second) for first in chosen for second in chosen]))

    similarities = [mean_similarity(diversity) for diversity in (0.0, 0.3, 0.6, 1.0)]
    assert similarities == sorted(similarities, reverse=True)


def test_what_it_is_given_is_left_as_it_is() -> None:
    scores = np.array([1.0, 2.0, 3.0], dtype=np.float32)
    vectors = np.eye(3, dtype=np.float32)
    scores.flags.writeable = vectors.flags.writeable = False
    diversify(scores, vectors, diversity=0.5, num_items=3)
