from dataclasses import replace

import numpy as np
import pytest

from tandem.contract import names
from tests.trainer.small_dataset import dataset_of
from trainer.config.train_config import TextConfig, TowersConfig, TrainConfig
from trainer.core.errors import DataError
from trainer.features.schema import build_schema, catalogue_texts, item_inputs, user_feature


def test_numbers_become_buckets_and_words_become_values() -> None:
    users = [{"age": str(age), "gender": "F" if age % 2 else "M"} for age in range(20, 60)]
    age = user_feature("age", users)
    assert age.boundaries
    assert age.code("19") == 1
    assert age.code("59") == age.num_codes - 1
    assert user_feature("gender", users).values == ("F", "M")


def test_numbers_with_few_values_are_categories() -> None:
    assert user_feature("age", [{"age": "1"}, {"age": "18"}, {}]).values == ("1", "18")


def test_schema_follows_the_data() -> None:
    dataset = dataset_of([[0, 1, 2], [1, 2, 3]], num_items=4)
    schema = build_schema(dataset, TrainConfig(), text_dim=0)
    assert schema.item_categories == ("even", "odd")
    assert schema.max_item_categories == 1
    assert schema.text_encoder == ""
    assert [feature.name for feature in schema.user_features] == ["age"]
    tensors = item_inputs(
        dataset.catalogue, schema, text_embeddings=np.zeros((4, 0), np.float32), popularity=np.array([1, 2, 0, 1])
    )
    assert tensors[names.ITEM_INDEX].tolist() == [1, 2, 0, 4]  # row 2 has no interactions: it reads the unknown row
    assert tensors[names.CATEGORY_CODES].tolist() == [[1], [2], [1], [2]]
    assert names.TEXT_EMBEDDING not in tensors


def test_texts_hold_title_and_categories_in_row_order() -> None:
    dataset = dataset_of([[0]], num_items=2)
    assert catalogue_texts(dataset.catalogue) == ["title 0. even", "title 1. odd"]


def test_the_schema_holds_the_length_at_which_texts_are_cut() -> None:
    dataset = dataset_of([[0, 1, 2]], num_items=3)
    config = TrainConfig(text=TextConfig(max_tokens=32))
    assert build_schema(dataset, config, text_dim=8).text_max_tokens == 32
    assert build_schema(dataset, config, text_dim=0).text_max_tokens == 256


def test_history_features_are_read_if_they_are_switched_on() -> None:
    dataset = dataset_of([[0, 1, 2]], num_items=3)
    config = TrainConfig(towers=TowersConfig(history_features=True))
    names_of_features = [feature.name for feature in build_schema(dataset, config, text_dim=0).user_features]
    assert names_of_features == ["age", names.NUM_EVENTS, names.DAYS_BEFORE_NEWEST]
    taken = replace(dataset, feature_names=(names.NUM_EVENTS,))
    with pytest.raises(DataError, match=names.NUM_EVENTS):
        build_schema(taken, config, text_dim=0)


@pytest.mark.parametrize("missing", ["nan", "NaN", "inf", "-inf", "NA", "null", "N/A", "\\N"])
def test_a_missing_number_leaves_the_ranges_of_the_others_as_they_are(missing: str) -> None:
    ages = [{"age": str(age)} for age in range(20, 79)]
    feature = user_feature("age", [*ages, {"age": missing}])
    assert feature == user_feature("age", ages)
    assert np.isfinite(feature.boundaries).all()
    assert feature.code(missing) == 0


def test_a_missing_number_among_few_is_no_value() -> None:
    assert user_feature("age", [{"age": "1"}, {"age": "18"}, {"age": "nan"}]).values == ("1", "18")


def test_a_word_is_a_value_even_if_it_looks_missing() -> None:
    assert user_feature("artist", [{"artist": "nan"}, {"artist": "Low"}]).values == ("Low", "nan")


def test_a_feature_of_missing_numbers_alone_has_no_values() -> None:
    feature = user_feature("age", [{"age": "nan"}, {"age": "inf"}])
    assert feature.boundaries == ()
    assert feature.num_codes >= 1
