"""NaN and infinity are missing values, and JSON never holds them."""

import json
import math
from dataclasses import replace

import pytest

from tandem.contract.errors import BundleCorrupt
from tandem.contract.features import UserFeature
from tandem.contract.manifest import Manifest
from tandem.contract.numbers import finite_json, finite_number, parsed_number


@pytest.mark.parametrize(
    ("text", "number"), [("1.5", 1.5), (" 2 ", 2.0), ("nan", None), ("-inf", None), ("1e999", None), ("x", None)]
)
def test_only_finite_numbers_are_numbers(text: str, number: float | None) -> None:
    assert finite_number(text) == number


def test_a_text_without_a_number_is_an_error_and_nan_is_none() -> None:
    assert math.isnan(parsed_number("inf"))
    with pytest.raises(ValueError, match="could not convert"):
        parsed_number("x")


def test_json_holds_null_for_what_is_not_finite() -> None:
    value = {"a": math.nan, "b": [1.5, math.inf, {"c": -math.inf}], "d": ("x", None, True, 3)}
    assert json.loads(finite_json(value)) == {"a": None, "b": [1.5, None, {"c": None}], "d": ["x", None, True, 3]}


@pytest.mark.parametrize("raw", ["nan", "inf", "-inf", "Infinity"])
def test_a_feature_that_is_not_finite_has_the_code_of_a_missing_one(raw: str) -> None:
    assert UserFeature("age", boundaries=(1.0, 2.0)).code(raw) == 0


def test_a_manifest_names_the_number_that_json_cannot_hold(manifest: Manifest) -> None:
    feature = UserFeature("age", boundaries=(1.0, math.nan))
    schema = replace(manifest.feature_schema, user_features=(feature,))
    damaged = replace(manifest, feature_schema=schema)
    with pytest.raises(BundleCorrupt, match=r"feature_schema\.user_features\.0\.boundaries\.1 is not a finite number"):
        damaged.to_json()
