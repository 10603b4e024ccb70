"""Limits of the checks at the end of `prepare`: the section `checks` of a data set's description."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class CheckLimits(BaseModel):
    """Shares, 0 to 1, from which a check warns (`_warn`) and from which it fails the run (`_fail`). A limit above 1 is
    never reached."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    unmatched_items_warn: float = Field(default=0.1, gt=0.0)
    """Share of interactions whose item is not in the items file, from which `prepare` warns."""
    unmatched_items_fail: float = Field(default=1.0, gt=0.0)
    """The share from which the run fails."""
    unmatched_users_warn: float = Field(default=0.5, gt=0.0)
    """Share of users who are not in the users file, from which `prepare` warns."""
    unmatched_users_fail: float = Field(default=1.0, gt=0.0)
    """The share from which the run fails."""
    case_of_ids_warn: float = Field(default=0.01, gt=0.0)
    """Share of interactions whose item is in the items file if upper and lower case, zeros at the beginning and how
    characters are written do not count, from which `prepare` warns."""
    case_of_ids_fail: float = Field(default=2.0, gt=0.0)
    """The share from which the run fails."""
    missing_ids_warn: float = Field(default=0.01, gt=0.0)
    """Share of rows of a user or item whose id is a word for "missing", such as NULL, of 20 rows or more, from which
    `prepare` warns."""
    missing_ids_fail: float = Field(default=0.1, gt=0.0)
    """The share from which the run fails."""
    one_user_warn: float = Field(default=0.2, gt=0.0)
    """Share of rows of the user with the most rows, of 100 rows or more, if that is ten times an equal share, from
    which `prepare` warns."""
    one_user_fail: float = Field(default=2.0, gt=0.0)
    """The share from which the run fails."""
    one_item_warn: float = Field(default=0.3, gt=0.0)
    """Share of rows of the item with the most rows, of 100 rows or more, if that is ten times an equal share, from
    which `prepare` warns."""
    one_item_fail: float = Field(default=2.0, gt=0.0)
    """The share from which the run fails."""
    duplicates_warn: float = Field(default=0.5, gt=0.0)
    """Share of rows that repeat a user and an item, from which `prepare` warns."""
    duplicates_fail: float = Field(default=2.0, gt=0.0)
    """The share from which the run fails."""
    similar_ids_warn: float = Field(default=0.01, gt=0.0)
    """Share of rows of users or items whose ids differ only in case, zeros at the beginning, or how their characters
    are written, from which `prepare` warns."""
    similar_ids_fail: float = Field(default=2.0, gt=0.0)
    """The share from which the run fails."""
    quoted_ids_warn: float = Field(default=0.01, gt=0.0)
    """Share of rows with an id in quotes, as "'a'" or Excel's ="01", from which `prepare` warns."""
    quoted_ids_fail: float = Field(default=2.0, gt=0.0)
    """The share from which the run fails."""
    times_in_1970_warn: float = Field(default=0.001, gt=0.0)
    """Share of rows with a time in 1970, as most have if `timestamp_unit` is too small, and those whose time is
    missing, from which `prepare` warns."""
    times_in_1970_fail: float = Field(default=2.0, gt=0.0)
    """The share from which the run fails."""
    equal_times_warn: float = Field(default=1.0, gt=0.0)
    """Share of rows, all or none, with one and the same time, from which `prepare` warns."""
    equal_times_fail: float = Field(default=2.0, gt=0.0)
    """The share from which the run fails."""
    constant_rating_warn: float = Field(default=1.0, gt=0.0)
    """Share of ratings, all or none, that are equal, of 20 or more, from which `prepare` warns."""
    constant_rating_fail: float = Field(default=2.0, gt=0.0)
    """The share from which the run fails."""
    missing_numbers_warn: float = Field(default=0.001, gt=0.0)
    """Share of users whose value of a numeric feature is NaN, infinite, or a word for "missing", from which `prepare`
    warns."""
    missing_numbers_fail: float = Field(default=2.0, gt=0.0)
    """The share from which the run fails."""

    words_among_numbers_warn: float = Field(default=1e-9, gt=0.0)
    """Share of users with a word in a feature that has many different numbers, from which `prepare` warns."""
    words_among_numbers_fail: float = Field(default=2.0, gt=0.0)
    """The share from which the run fails."""

    def of(self, check: str) -> tuple[float, float]:
        """The limits of a check: (warn, fail)."""
        return getattr(self, f"{check}_warn"), getattr(self, f"{check}_fail")
