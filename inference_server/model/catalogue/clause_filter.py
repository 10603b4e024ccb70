"""Which items of a table meet the conditions of requests and policies on categories and attributes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from inference_server.core.errors import InvalidRequest
from inference_server.core.query import AttributePredicate, Clause
from tandem.contract.items import AttributeColumn, ItemTable
from tandem.contract.numbers import finite_number
from tandem.contract.vocabulary import NO_ROWS, Rows


class ClauseFilter:
    """Evaluates clauses over an item table. The column of an attribute is read when a clause first names it."""

    def __init__(self, items: ItemTable, rows_by_category: Mapping[str, Rows]) -> None:
        """`rows_by_category` belongs to the same table, see `ItemTable.rows_by_category`."""
        self._items = items
        self._rows_by_category = rows_by_category
        self._attributes: dict[str, AttributeColumn] = {}
        self.categories = rows_by_category.keys()
        """The categories that items have."""

    @cached_property
    def attribute_names(self) -> frozenset[str]:
        """The attributes that items have."""
        return self._items.attribute_names()

    def passes(self, clauses: Sequence[Clause]) -> npt.NDArray[np.bool_]:
        """Which items meet every clause: (items,) bool."""
        mask = np.ones(len(self._items), dtype=np.bool_)
        for clause in clauses:
            if clause.include_categories:
                included = np.zeros(len(self._items), dtype=np.bool_)
                for category in clause.include_categories:
                    included[self._rows_by_category.get(category, NO_ROWS)] = True
                mask &= included
            for category in clause.exclude_categories:
                mask[self._rows_by_category.get(category, NO_ROWS)] = False
            for predicate in clause.attributes:
                mask &= self._meets(predicate)
        return mask

    def check(self, predicates: Sequence[AttributePredicate], *, field: str) -> None:
        """Raises InvalidRequest, which names the entry of `field`, for a bound on an attribute that is not numeric."""
        for index, predicate in enumerate(predicates):
            if predicate.min is None and predicate.max is None:
                continue
            column = self.attribute(predicate.name)
            if column is not None and column.numbers is None:
                bound = "min" if predicate.min is not None else "max"
                raise InvalidRequest(f"{field}[{index}].{bound}", f"values of {predicate.name!r} are not numbers")

    def _meets(self, predicate: AttributePredicate) -> npt.NDArray[np.bool_]:
        """Which items meet a predicate: (items,) bool.

        A value that is not a number meets no bound and is no error: an operator's rule may put a bound on an attribute
        that is text in this catalogue, which no caller can fix.
        """
        column = self.attribute(predicate.name)
        if column is None:
            needs_value = predicate.any_of or predicate.min is not None or predicate.max is not None
            return np.full(len(self._items), not needs_value)
        met = np.ones(len(column.values) + 1, dtype=np.bool_)  # the last entry stands for items without the attribute
        if predicate.any_of:
            met[:-1] &= np.isin(column.values, predicate.any_of)
            met[-1] = False
        if predicate.none_of:
            met[:-1] &= ~np.isin(column.values, predicate.none_of)
        if predicate.min is not None or predicate.max is not None:
            met[-1] = False
            numbers = _numbers_or_nan(column)
            if predicate.min is not None:
                met[:-1] &= numbers >= predicate.min
            if predicate.max is not None:
                met[:-1] &= numbers <= predicate.max
        by_item: npt.NDArray[np.bool_] = met[column.codes]
        return by_item

    def attribute(self, name: str) -> AttributeColumn | None:
        """One attribute of all items; None if no item has it."""
        if name not in self._attributes:
            if name not in self.attribute_names:
                return None
            column = self._items.attribute(name)
            assert column is not None, "its name is among the names"
            self._attributes[name] = column
        return self._attributes[name]


def _numbers_or_nan(column: AttributeColumn) -> npt.NDArray[np.float64]:
    """(values,) float64; NaN, which meets no bound, for a value that is not a number."""
    if column.numbers is not None:
        return column.numbers
    numbers = (finite_number(text) for text in column.values)
    return np.array([np.nan if number is None else number for number in numbers])
