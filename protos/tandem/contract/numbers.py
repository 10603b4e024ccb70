"""What counts as a number: NaN and infinity are missing values, in features, attributes and JSON alike."""

from __future__ import annotations

import json
import math


def parsed_number(text: str) -> float:
    """The number that a text holds; NaN for infinity and NaN. Raises ValueError if it holds no number."""
    number = float(text)
    return number if math.isfinite(number) else math.nan


def finite_number(text: str) -> float | None:
    """The number that a text holds; None if it holds none, or NaN or infinity."""
    try:
        number = parsed_number(text)
    except ValueError:
        return None
    return None if math.isnan(number) else number


def finite_json(value: object, *, indent: int | None = None, ensure_ascii: bool = True) -> str:
    """A value as valid JSON: NaN and infinity, which JSON has no words for, become null."""
    return json.dumps(_without_nan(value), indent=indent, ensure_ascii=ensure_ascii, allow_nan=False)


def _without_nan(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    return [_without_nan(inner) for inner in value] if isinstance(value, list | tuple) else value
