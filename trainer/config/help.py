"""Help texts made from the configuration classes: every key with its default, its allowed values and its effect.

The training configuration is printed as a TOML file that `--config` accepts, so the help is a template too.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from trainer.core.config_problems import section_model

_WIDTH = 100
_BOUNDS = (("ge", "at least"), ("gt", "above"), ("le", "at most"), ("lt", "below"))


def config_toml(config: BaseModel, *, explained: bool = True) -> str:
    """A configuration as a TOML file; with `explained`, a comment above each key gives its effect."""
    parts = []
    for section, section_field in type(config).model_fields.items():
        values = getattr(config, section)
        about = _comment(type(values).__doc__ or section_field.description or "") if explained else []
        lines = [*about, f"[{section}]"]
        for name, field in type(values).model_fields.items():
            value = getattr(values, name)
            if explained:
                lines += ["", *_comment(explanation(field))]
            lines.append(f"# {name} =" if value is None else f"{name} = {_toml_value(value)}")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def keys_text(model: type[BaseModel], prefix: str = "") -> str:
    """The keys of a model and its sections as readable text, dotted as `--set` expects them."""
    return "\n".join(_key_lines(model, prefix))


def _key_lines(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        inner = section_model(field.annotation)
        if inner is not None:
            yield from _key_lines(inner, f"{prefix}{name}.")
            continue
        default = "required" if field.is_required() else f"default {_toml_value(field.get_default())}"
        yield f"{prefix}{name} ({default})"
        yield textwrap.fill(explanation(field), _WIDTH, initial_indent="    ", subsequent_indent="    ")


def explanation(field: FieldInfo) -> str:
    """The effect of a key, and its allowed values if its type or bounds state them."""
    description = " ".join((field.description or "").split())
    allowed = _allowed(field)
    return " ".join(part for part in (description, f"({allowed})" if allowed else "") if part)


def _allowed(field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return "one of " + ", ".join(json.dumps(choice) for choice in get_args(field.annotation))
    bounds = [
        f"{words} {getattr(limit, attribute):g}"
        for attribute, words in _BOUNDS
        for limit in field.metadata
        if isinstance(getattr(limit, attribute, None), int | float)
    ]
    return ", ".join(bounds)


def _toml_value(value: Any) -> str:
    """A value as TOML writes it. JSON writes strings, numbers, booleans and lists in the same way."""
    if value is None or value is PydanticUndefined:
        return "none"
    if isinstance(value, tuple):
        value = list(value)
    return json.dumps(value, ensure_ascii=False) if not isinstance(value, dict) else "{}"


def _comment(text: str) -> list[str]:
    return textwrap.wrap(" ".join(text.split()), _WIDTH, initial_indent="# ", subsequent_indent="# ")
