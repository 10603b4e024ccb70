"""Fills the templates of this folder. The only module that imports jinja2."""

from __future__ import annotations

from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

_ENVIRONMENT: Final = Environment(
    loader=PackageLoader("trainer.rendering", "templates"),
    # What a page shows comes from the outside: a title may hold anything. Markdown is made of our own words.
    autoescape=select_autoescape(enabled_extensions=("html.j2",), default=False),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def render(template: str, **values: object) -> str:
    """A template with its values; a value that is missing raises jinja2.UndefinedError."""
    return _ENVIRONMENT.get_template(template).render(**values)
