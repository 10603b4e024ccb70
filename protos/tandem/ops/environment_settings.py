"""Settings that a program reads from environment variables TANDEM_*, and their help text."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from pydantic import ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError as UnreadableValue

from tandem.ops.arguments import one_line
from tandem.ops.secrets import redacted

ENV_PREFIX: Final = "TANDEM_"


class EnvironmentSettings(BaseSettings):
    """Base of the programs' settings: a field is the variable TANDEM_ + its name in capitals; empty means unset.

    The docstring under a field is its description: unit, effect, when to change it.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_ignore_empty=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @field_validator("*")
    @classmethod
    def _check_path(cls, value: object) -> object:
        if isinstance(value, Path):
            one_line(str(value))
        return value


_Settings = TypeVar("_Settings", bound=EnvironmentSettings)


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


def read_settings(settings: type[_Settings], *, raises: type[Exception]) -> _Settings:
    """A program's settings from the environment.

    Raises `raises` with one line that begins with the first variable that is wrong. The line shows the value only of a
    number, a choice or a path: free text, a URL above all, may hold a password.
    """
    try:
        return settings()
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        name = str(problem["loc"][0])
        text = redacted(problem["msg"].removeprefix("Value error, ")).replace("\n", "\\n")
        field = settings.model_fields.get(name)
        shown = "" if field is None or field.annotation is str else f" (got {redacted(repr(problem['input']))})"
        raise raises(f"{variable_of(name)}: {text}{shown}") from None
    except UnicodeEncodeError:  # in a message of a check, which quotes the value
        name = next((name for name in settings.model_fields if _is_no_text(os.environ.get(variable_of(name), ""))), "")
        raise raises(f"{variable_of(name)}: is not text in UTF-8") from None
    except UnreadableValue as error:
        name = next((name for name in settings.model_fields if f'"{name}"' in str(error)), "")
        raise raises(f"{variable_of(name)}: is not JSON: {error.__cause__}") from None


def settings_help(settings: type[EnvironmentSettings]) -> str:
    """The settings as a text for --help, a paragraph each."""
    return "\n".join(
        f"  {setting.variable} (default: {setting.default})\n      {setting.description}"
        for setting in described_settings(settings)
    )


def _is_no_text(value: str) -> bool:
    return any(0xD800 <= ord(character) < 0xE000 for character in value)
