"""Describes what is wrong with a configuration: file, line, key, allowed values, and the nearest known key."""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails


@dataclass(frozen=True, kw_only=True)
class ConfigText:
    """A configuration as the user wrote it, in which the line of a key is found."""

    label: str
    """Names the file in messages; empty where there is none."""
    text: str
    overrides: Collection[str] = ()
    """Dotted keys that the command line overrides."""

    def location_of(self, steps: Sequence[str]) -> str:
        """Where a key is set: "override fit.seed", "train.toml, line 3", or the label alone."""
        key = ".".join(steps)
        for override in self.overrides:
            if key == override or key.startswith(f"{override}."):
                return f"override {override}"
        if line := line_of(self.text, steps):
            return f"{self.label}, line {line}"
        return next(
            (f"override {override}" for override in self.overrides if override.startswith(f"{key}.")), self.label
        )


KeysAt = Callable[[Sequence[str]], Collection[str]]
"""Returns the keys that a section may hold; the argument is the path of the section, key by key."""


def describe_problems(
    error: ValidationError,
    source: ConfigText,
    keys_at: KeysAt,
    *,
    skipped_steps: int = 0,
    tag_key: str = "",
    tags: Collection[str] = (),
) -> str:
    """A short description of every problem of a validation, joined by "; ".

    pydantic puts the name of a union's member before the location; `skipped_steps` is the number of leading steps to
    drop. `tag_key` is the key that selects the member, `tags` are its values.
    """
    return "; ".join(
        _describe(problem, source, keys_at, [str(step) for step in problem["loc"]][skipped_steps:], (tag_key, tags))
        for problem in error.errors(include_url=False)
    )


def keys_of(model: type[BaseModel], steps: Sequence[str]) -> list[str]:
    """The keys that a section of a model may hold, in the order of declaration; empty if there is no such section."""
    for step in steps:
        field = model.model_fields.get(step)
        inner = section_model(field.annotation) if field else None
        if inner is None:
            return []
        model = inner
    return list(model.model_fields)


def section_model(annotation: Any) -> type[BaseModel] | None:
    """The model class of a section, which may be optional; None for a plain value."""
    for candidate in (annotation, *typing.get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def nearest_key(key: str, known: Collection[str]) -> str:
    """The hint for an unknown key: the nearest known key, or all known keys."""
    nearest = difflib.get_close_matches(key, list(known), n=1)
    if nearest:
        return f"did you mean {nearest[0]!r}?"
    return f"known keys: {', '.join(known)}" if known else ""


def line_of(text: str, steps: Sequence[str]) -> int:
    """Line of a key in a TOML text, from 1; 0 if the text does not set it."""
    section: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*\[\s*([^\]\[]+?)\s*\]", line):
            section = [part.strip(" \"'") for part in header[1].split(".")]
            if section == list(steps):
                return number
        key = re.match(r"\s*[\"']?([^\s\"'=]+)[\"']?\s*=", line)
        if key and [*section, key[1]] == list(steps[: len(section) + 1]):
            return number
    return 0


def _describe(
    problem: ErrorDetails, source: ConfigText, keys_at: KeysAt, steps: list[str], tag: tuple[str, Collection[str]]
) -> str:
    is_tag = problem["type"].startswith("union_tag")
    if is_tag:
        steps = [tag[0]]
    location = source.location_of(steps)
    key = ".".join(steps)
    if location.startswith(f"override {key}"):
        key = ""  # the location names it already
    before = ": ".join(part for part in (location, key) if part)
    found = "" if isinstance(problem["input"], dict | BaseModel) else f", not {problem['input']!r}"
    if problem["type"] == "missing":
        return f"{before}: required, and absent"
    if problem["type"] == "extra_forbidden":
        hint = nearest_key(steps[-1], keys_at(steps[:-1]))
        return f"{before}: unknown key{f'; {hint}' if hint else ''}"
    if is_tag:
        allowed = ", ".join(map(repr, tag[1]))
        is_absent = problem["type"] == "union_tag_not_found"
        return (
            f"{before}: required, and absent; one of {allowed}" if is_absent else f"{before}: must be one of {allowed}"
        )
    message = problem["msg"].removeprefix("Value error, ")
    return f"{before}: {message}{found}" if before else f"{message}{found}"
