"""Warnings about a filter: names that the catalogue does not have, with the name that was probably meant.

A filter is explained once and its warnings are cached with its mask, so a repeated filter costs one look-up.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from difflib import get_close_matches
from heapq import nsmallest
from itertools import islice
from typing import Final

from inference_server.core.query import AttributePredicate, Clause
from inference_server.core.request_warnings import RequestWarning, WarningKind
from inference_server.model.catalogue.clause_filter import ClauseFilter

MAX_WARNINGS: Final = 10
"""Warnings of one filter; the rest would say the same."""
_MAX_SUGGESTIONS: Final = 3
"""Names of one filter for which a near name is looked for: it takes a millisecond or two, and all requests wait."""
_MAX_NAMES: Final = 1_000
"""Near names are looked for among at most so many."""
_MAX_COMPARED: Final = 20
"""Names that are compared letter by letter, at up to 0.1 milliseconds each."""


def filter_warnings(
    clause: Clause, filters: Sequence[ClauseFilter], *, field: str, num_items: int, has_rules: bool
) -> tuple[RequestWarning, ...]:
    """The warnings about a request's filter, at most MAX_WARNINGS.

    `filters` are of all parts of the catalogue, `field` is the name of the filter in the API, `num_items` the number of
    items that pass it. `has_rules` says whether a policy's rules were applied with it.
    """
    warnings = [*islice(_of_names(clause, filters, field, _Suggestions()), MAX_WARNINGS - 1)]
    if not num_items:
        rules = " together with the rules of the scenario's policy" if has_rules else ""
        warnings.append(RequestWarning(WarningKind.MATCHES_NOTHING, f"{field}: no item passes it{rules}"))
    return tuple(warnings)


def _of_names(
    clause: Clause, filters: Sequence[ClauseFilter], field: str, near: _Suggestions
) -> Iterator[RequestWarning]:
    categories: set[str] = set().union(*(part.categories for part in filters))
    for list_name in ("include_categories", "exclude_categories"):
        for index, category in enumerate(getattr(clause, list_name)):
            if category not in categories:
                problem = f"no item has the category {category!r}{near.to(category, categories)}"
                yield RequestWarning(WarningKind.UNKNOWN_CATEGORY, f"{field}.{list_name}[{index}]: {problem}")
    for index, predicate in enumerate(clause.attributes):
        yield from _of_predicate(predicate, filters, f"{field}.attributes[{index}]", near)


def _of_predicate(
    predicate: AttributePredicate, filters: Sequence[ClauseFilter], field: str, near: _Suggestions
) -> Iterator[RequestWarning]:
    name = predicate.name
    columns = [column for part in filters if (column := part.attribute(name)) is not None]
    if not columns:
        names: set[str] = set().union(*(part.attribute_names for part in filters))
        problem = f"no item has the attribute {name!r}{near.to(name, names)}"
        yield RequestWarning(WarningKind.UNKNOWN_ATTRIBUTE, f"{field}.name: {problem}")
        return
    wanted = {*predicate.any_of, *predicate.none_of}
    known: set[str] = set().union(*(wanted.intersection(column.values) for column in columns))
    values: set[str] = set()
    if len(known) < len(wanted) and sum(len(column.values) for column in columns) <= _MAX_NAMES:
        values = values.union(*(column.values for column in columns))
    for list_name in ("any_of", "none_of"):
        for index, value in enumerate(getattr(predicate, list_name)):
            if value not in known:
                problem = f"no item's {name} is {value!r}{near.to(value, values)}"
                yield RequestWarning(WarningKind.UNKNOWN_VALUE, f"{field}.{list_name}[{index}]: {problem}")
    bound = "min" if predicate.min is not None else "max" if predicate.max is not None else ""
    if bound and not any(column.has_numbers for column in columns):
        yield RequestWarning(WarningKind.NOT_NUMERIC, f"{field}.{bound}: values of {name!r} are not numbers")
    if not bound and not predicate.any_of and not predicate.none_of:
        problem = "asks for nothing: it has neither any_of, none_of, min nor max"
        yield RequestWarning(WarningKind.NO_CONDITION, f"{field}: {problem}")


class _Suggestions:
    """Finds the names that were probably meant, for the first few unknown names of a filter."""

    def __init__(self) -> None:
        self._left = _MAX_SUGGESTIONS

    def to(self, written: str, names: Collection[str]) -> str:
        """ "; did you mean 'Comedy'?", or nothing where no name is near."""
        if not self._left or len(names) > _MAX_NAMES:
            return ""
        self._left -= 1
        folded = {_folded(name): name for name in sorted(names)}
        wanted = _folded(written)
        near = [wanted] if wanted in folded else get_close_matches(wanted, _alike(wanted, folded), n=1, cutoff=0.75)
        return f"; did you mean {folded[near[0]]!r}?" if near else ""


def _alike(wanted: str, names: Iterable[str]) -> list[str]:
    """The names that have nearly the same letters, those with the fewest different ones first."""
    letters = set(wanted)
    by_difference = (
        (len(letters.symmetric_difference(name)), name) for name in names if abs(len(name) - len(wanted)) < 4
    )
    return [name for difference, name in nsmallest(_MAX_COMPARED, by_difference) if difference < 5]


def _folded(name: str) -> str:
    """A name without what is easily mistaken: case, blanks, hyphens, underscores, and ".0" behind a whole number."""
    if name[:1].isdecimal():
        with suppress(ValueError):
            return f"{float(name):g}"
    return "".join(filter(str.isalnum, name.casefold()))
