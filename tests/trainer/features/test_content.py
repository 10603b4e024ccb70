from collections.abc import Sequence

import numpy as np
import pytest

from tandem.contract.vocabulary import Vocabulary
from trainer.config.train_config import ContentConfig
from trainer.dataset.dataset import Catalogue
from trainer.features.content import content_vectors, tf_idf

NO_TEXT = np.zeros((6, 0), np.float32)
GENRES = [["western"], ["western", "noir"], ["noir"], ["western"], [], []]


def _catalogue(categories: Sequence[Sequence[str]], titles: Sequence[str] | None = None) -> Catalogue:
    ids = [f"i{row}" for row in range(len(categories))]
    return Catalogue(
        item_ids=ids,
        titles=titles or [""] * len(ids),
        descriptions=[""] * len(ids),
        categories=categories,
        attributes=[{}] * len(ids),
        vocabulary=Vocabulary.from_ids(ids),
        available=np.ones(len(ids), dtype=np.bool_),
    )


def _text(count, dim, seed=0):
    text = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    return text / np.linalg.norm(text, axis=1, keepdims=True)


def test_equal_items_have_equal_vectors_and_items_without_content_have_none() -> None:
    vectors = content_vectors(_catalogue(GENRES), NO_TEXT, ContentConfig())
    assert vectors.dtype == np.float16
    assert vectors.shape == (6, 2)
    assert vectors[0] == pytest.approx(vectors[3], abs=1e-3)
    assert not vectors[4:].any()
    assert np.linalg.norm(vectors[:4].astype(np.float32), axis=1) == pytest.approx(1.0, abs=1e-3)


def test_without_reduction_similarities_are_tf_idf_cosines() -> None:
    vectors = content_vectors(_catalogue(GENRES), NO_TEXT, ContentConfig()).astype(np.float32)
    noir, western = 1 + np.log(7 / 3), 1 + np.log(7 / 4)  # 6 items; 2 are noir, 3 are western
    length = np.hypot(noir, western)
    assert vectors[0] @ vectors[2] == pytest.approx(0.0, abs=2e-3)
    assert vectors[0] @ vectors[1] == pytest.approx(western / length, abs=2e-3)
    assert vectors[1] @ vectors[2] == pytest.approx(noir / length, abs=2e-3)


def test_words_of_titles_count_without_an_encoder_and_are_not_categories() -> None:
    catalogue = _catalogue([[], [], ["Red"], ["Red"], []], ["Red lamp", "Lamp of RED glass", "Chair", "Desk", "?"])
    vectors = content_vectors(catalogue, np.zeros((5, 0), np.float32), ContentConfig()).astype(np.float32)
    assert vectors[0] @ vectors[1] > 0.5
    assert vectors[:2] @ vectors[2:].T == pytest.approx(0.0, abs=1e-3)
    assert vectors[2] @ vectors[3] > 0.2
    assert not vectors[4].any()


@pytest.mark.parametrize("tf_idf_weight", [0.0, 0.25, 1.0])
def test_encoder_and_tf_idf_share_the_similarity(tf_idf_weight) -> None:
    text = _text(4, 5)
    catalogue = _catalogue([["western"], ["western"], ["noir"], ["noir"]])
    vectors = content_vectors(catalogue, text, ContentConfig(tf_idf_weight=tf_idf_weight)).astype(np.float32)
    expected = (1 - tf_idf_weight) * (text @ text.T) + tf_idf_weight * np.array(
        [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
    )
    assert vectors @ vectors.T == pytest.approx(expected, abs=5e-3)


def test_items_without_text_are_known_by_categories_and_the_reverse() -> None:
    text = _text(4, 5)
    text[2:] = 0.0
    catalogue = _catalogue([["western"], [], ["western"], []])
    vectors = content_vectors(catalogue, text, ContentConfig(tf_idf_weight=0.5)).astype(np.float32)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1, 1, 0], abs=1e-3)
    assert vectors[0] @ vectors[2] == pytest.approx(np.sqrt(0.5), abs=5e-3)


def test_the_reduction_keeps_the_strongest_directions() -> None:
    generator = np.random.default_rng(0)
    directions = np.linalg.qr(generator.normal(size=(40, 3)))[0].T
    text = generator.normal(size=(9_000, 3)) @ directions + generator.normal(0, 0.001, (9_000, 40))
    text = (text / np.linalg.norm(text, axis=1, keepdims=True)).astype(np.float32)
    vectors = content_vectors(_catalogue([[]] * 9_000), text, ContentConfig(dim=3)).astype(np.float32)
    assert vectors.shape == (9_000, 3)
    np.testing.assert_allclose(vectors[:50] @ vectors.T, text[:50] @ text.T, atol=0.05)


def test_directions_that_most_items_share_do_not_outweigh_particular_content() -> None:
    generator = np.random.default_rng(0)
    shared, own = np.ones((300, 1)), np.repeat(np.eye(10), 30, axis=0)  # ten kinds of items, nine tenths alike
    text = np.hstack([3.0 * shared, own, generator.normal(0, 0.01, (300, 20))]).astype(np.float32)
    vectors = content_vectors(_catalogue([[]] * 300), text, ContentConfig(dim=10)).astype(np.float32)
    similarity = vectors @ vectors.T
    assert similarity[0, 1:30].min() > 0.9
    assert similarity[0, 30:].max() < 0.8  # 0.9 before the reduction


def test_an_item_that_the_reduction_loses_is_zero_not_noise() -> None:
    genres = [["common"]] * 50 + [["frequent"]] * 30 + [["rare"]]
    vectors = content_vectors(_catalogue(genres), np.zeros((81, 0), np.float32), ContentConfig(dim=2))
    assert vectors[:80].any(axis=1).all()
    assert not vectors[80].any()


def test_two_runs_give_the_same_vectors() -> None:
    generator = np.random.default_rng(0)
    titles = [" ".join(f"word{word}" for word in generator.zipf(1.5, 8) % 500) for _ in range(300)]
    runs = [content_vectors(_catalogue([[]] * 300, titles), _text(300, 20), ContentConfig(dim=16)) for _ in range(2)]
    np.testing.assert_array_equal(*runs)


@pytest.mark.parametrize("genres", [[[], []], [["everywhere"], ["everywhere"]]], ids=["none", "one of all items"])
def test_a_catalogue_of_indistinguishable_items_has_no_content(genres) -> None:
    assert content_vectors(_catalogue(genres), np.zeros((2, 0), np.float32), ContentConfig()) is None
    assert tf_idf(_catalogue(genres)).shape == (2, 0)
