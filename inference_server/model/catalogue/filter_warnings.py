"""Warnings about a filter: names that the catalogue does not have, with the name that was probably meant.

A filter is explained once and its warnings are cached with its mask, so a repeated filter costs one look-up.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from difflib import get_close_matches
from itertools import islice
from typing import Final

from inference_server.core.query import AttributePredicate, Clause
from inference_server.core.request_warnings import RequestWarning, WarningKind
from inference_server.model.catalogue.clause_filter import ClauseFilter

MAX_WARNINGS: Final = 10
"""Warnings of one filter; the rest would say the same."""
_MAX_COMPARED: Final = 500
"""Similar names are looked for among at most so many: comparing takes about 5 microseconds a name."""
_MAX_FOLDED: Final = 10_000
"""Names that differ only in case or punctuation are looked for among at most so many."""


def filter_warnings(
    clause: Clause, filters: Sequence[ClauseFilter], *, field: str, num_items: int, has_rules: bool
) -> tuple[RequestWarning, ...]:
    """The warnings about a request's filter, at most MAX_WARNINGS.

    `filters` are of all parts of the catalogue, `field` is the name of the filter in the API, `num_items` the number of
    items that pass it. `has_rules` says whether a policy's rules were applied with it.
    """
    warnings = [*islice(_of_names(clause, filters, field), MAX_WARNINGS - 1)]
    if not num_items:
        rules = " together with the rules of the scenario's policy" if has_rules else ""
        warnings.append(RequestWarning(WarningKind.MATCHES_NOTHING, f"{field}: no item passes it{rules}"))
    return tuple(warnings)


def _of_names(clause: Clause, filters: Sequence[ClauseFilter], field: str) -> Iterator[RequestWarning]:
    categories: set[str] = set().union(*(part.categories for part in filters))
    for list_name in ("include_categories", "exclude_categories"):
        for index, category in enumerate(getattr(clause, list_name)):
            if category not in categories:
                problem = f"no item has the category {category!r}{_meant(category, categories)}"
                yield RequestWarning(WarningKind.UNKNOWN_CATEGORY, f"{field}.{list_name}[{index}]: {problem}")
    for index, predicate in enumerate(clause.attributes):
        yield from _of_predicate(predicate, filters, f"{field}.attributes[{index}]")


def _of_predicate(
    predicate: AttributePredicate, filters: Sequence[ClauseFilter], field: str
) -> Iterator[RequestWarning]:
    name = predicate.name
    columns = [column for part in filters if (column := part.attribute(name)) is not None]
    if not columns:
        names: set[str] = set().union(*(part.attribute_names for part in filters))
        problem = f"no item has the attribute {name!r}{_meant(name, names)}"
        yield RequestWarning(WarningKind.UNKNOWN_ATTRIBUTE, f"{field}.name: {problem}")
        return
    wanted = {*predicate.any_of, *predicate.none_of}
    known: set[str] = set().union(*(wanted.intersection(column.values) for column in columns))
    values: set[str] = set()
    if len(known) < len(wanted) and sum(len(column.values) for column in columns) <= _MAX_FOLDED:
        values = values.union(*(column.values for column in columns))
    for list_name in ("any_of", "none_of"):
        for index, value in enumerate(getattr(predicate, list_name)):
            if value not in known:
                problem = f"no item's {name} is {value!r}{_meant(value, values)}"
                yield RequestWarning(WarningKind.UNKNOWN_VALUE, f"{field}.{list_name}[{index}]: {problem}")
    bound = "min" if predicate.min is not None else "max" if predicate.max is not None else ""
    if bound and not any(column.has_numbers for column in columns):
        yield RequestWarning(WarningKind.NOT_NUMERIC, f"{field}.{bound}: values of {name!r} are not numbers")
    if not bound and not predicate.any_of and not predicate.none_of:
        problem = "asks for nothing: it has neither any_of, none_of, min nor max"
        yield RequestWarning(WarningKind.NO_CONDITION, f"{field}: {problem}")


def _meant(written: str, names: Collection[str]) -> str:
    """ "; did you mean 'Comedy'?", or nothing where no name is near."""
    if len(names) > _MAX_FOLDED:
        return ""
    folded = {_folded(name): name for name in sorted(names)}
    near: str | None = folded.get(_folded(written))
    if near is None and len(names) <= _MAX_COMPARED:
        near = next((folded[match] for match in get_close_matches(_folded(written), folded, n=1, cutoff=0.75)), None)
    return "" if near is None else f"; did you mean {near!r}?"


def _folded(name: str) -> str:
    """A name without what is easily mistaken: case, blanks, hyphens, underscores, and ".0" behind a whole number."""
    try:
        return f"{float(name):g}"
    except ValueError:
        return "".join(character for character in name.casefold() if character.isalnum())
