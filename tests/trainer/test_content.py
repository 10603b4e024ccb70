import numpy as np
import pytest

from trainer.config import ContentConfig
from trainer.features.content import content_vectors

NO_TEXT = np.zeros((6, 0), np.float32)
GENRES = [["western"], ["western", "noir"], ["noir"], ["western"], [], ["unheard of"]]
KNOWN = ("noir", "western")


def _text(count, dim, seed=0):
    text = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    return text / np.linalg.norm(text, axis=1, keepdims=True)


def test_equal_items_have_equal_vectors_and_unknown_ones_have_none() -> None:
    vectors = content_vectors(GENRES, KNOWN, NO_TEXT, ContentConfig())
    assert vectors.dtype == np.float16
    assert vectors.shape == (6, 2)
    assert vectors[0] == pytest.approx(vectors[3], abs=1e-3)
    assert not vectors[4:].any()
    assert np.linalg.norm(vectors[:4].astype(np.float32), axis=1) == pytest.approx(1.0, abs=1e-3)


def test_without_reduction_similarities_are_tf_idf_cosines() -> None:
    vectors = content_vectors(GENRES, KNOWN, NO_TEXT, ContentConfig()).astype(np.float32)
    noir, western = np.log(7 / 3), np.log(7 / 4)  # 6 items; 2 are noir, 3 are western
    length = np.hypot(noir, western)
    assert vectors[0] @ vectors[2] == pytest.approx(0.0, abs=2e-3)
    assert vectors[0] @ vectors[1] == pytest.approx(western / length, abs=2e-3)
    assert vectors[1] @ vectors[2] == pytest.approx(noir / length, abs=2e-3)


@pytest.mark.parametrize("category_weight", [0.0, 0.25, 1.0])
def test_text_and_categories_share_the_similarity(category_weight) -> None:
    text = _text(4, 5)
    genres = [["western"], ["western"], ["noir"], ["noir"]]
    config = ContentConfig(category_weight=category_weight)
    vectors = content_vectors(genres, KNOWN, text, config).astype(np.float32)
    expected = (1 - category_weight) * (text @ text.T) + category_weight * np.array(
        [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
    )
    assert vectors @ vectors.T == pytest.approx(expected, abs=5e-3)


def test_items_without_text_or_without_categories_are_known_by_the_other() -> None:
    text = _text(4, 5)
    text[2:] = 0.0
    vectors = content_vectors([["western"], [], ["western"], []], KNOWN, text, ContentConfig()).astype(np.float32)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1, 1, 0], abs=1e-3)
    assert vectors[0] @ vectors[2] == pytest.approx(np.sqrt(0.5), abs=5e-3)


def test_the_reduction_keeps_the_directions_that_hold_most() -> None:
    generator = np.random.default_rng(0)
    text = generator.normal(size=(9_000, 3)) @ generator.normal(size=(3, 40)) + generator.normal(0, 0.01, (9_000, 40))
    text = (text / np.linalg.norm(text, axis=1, keepdims=True)).astype(np.float32)
    vectors = content_vectors([[]] * 9_000, (), text, ContentConfig(dim=3)).astype(np.float32)
    assert vectors.shape == (9_000, 3)
    assert vectors[:50] @ vectors.T == pytest.approx(text[:50] @ text.T, abs=0.02)


def test_what_the_reduction_loses_is_unknown_not_noise() -> None:
    genres = [["common"]] * 50 + [["frequent"]] * 30 + [["rare"]]
    vectors = content_vectors(
        genres, ("common", "frequent", "rare"), np.zeros((81, 0), np.float32), ContentConfig(dim=2)
    )
    assert vectors[:80].any(axis=1).all()
    assert not vectors[80].any()


@pytest.mark.parametrize("genres", [[[], []], [["everywhere"], ["everywhere"]]], ids=["none", "one of all items"])
def test_a_catalogue_that_tells_no_items_apart_has_no_content(genres) -> None:
    assert content_vectors(genres, ("everywhere",), np.zeros((2, 0), np.float32), ContentConfig()) is None
    assert content_vectors(genres, (), np.zeros((2, 0), np.float32), ContentConfig()) is None
