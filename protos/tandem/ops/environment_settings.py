"""Settings that a program reads from environment variables TANDEM_*, and their help text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

ENV_PREFIX: Final = "TANDEM_"


class EnvironmentSettings(BaseSettings):
    """Base of the programs' settings: a field is the variable TANDEM_ + its name in capitals; empty means unset.

    The docstring under a field is its description: unit, effect, when to change it.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_ignore_empty=True, frozen=True, use_attribute_docstrings=True
    )


@dataclass(frozen=True, slots=True)
class DescribedSetting:
    """A setting as --help and docs/settings.md show it."""

    variable: str
    default: str
    """Empty where the setting is unset by default."""
    description: str
    """One line."""


def described_settings(settings: type[EnvironmentSettings]) -> Iterator[DescribedSetting]:
    """All settings of a program, in the order of their definition."""
    for name, field in settings.model_fields.items():
        default = field.get_default(call_default_factory=True, validated_data={})
        yield DescribedSetting(
            variable=variable_of(name),
            default="" if default is None else str(default),
            description=" ".join((field.description or "").split()),
        )


def variable_of(field_name: str) -> str:
    """Name of the environment variable that sets a field."""
    return ENV_PREFIX + field_name.upper()


def first_problem(error: ValidationError) -> str:
    """The first problem of settings that are wrong, in one line that begins with the variable."""
    problem = error.errors(include_url=False)[0]
    variable = variable_of(str(problem["loc"][0]))
    return f"{variable}: {problem['msg'].removeprefix('Value error, ')} (got {problem['input']!r})"


def settings_help(settings: type[EnvironmentSettings]) -> str:
    """The settings as a text for --help, a paragraph each."""
    return "\n".join(
        f"  {setting.variable} (default: {setting.default})\n      {setting.description}"
        for setting in described_settings(settings)
    )
