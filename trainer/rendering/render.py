"""Fills the templates of this folder. The only module that imports jinja2."""

from __future__ import annotations

from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

_ENVIRONMENT: Final = Environment(
    loader=PackageLoader("trainer.rendering", "templates"),
    # HTML pages show external text, such as titles. Markdown files hold only text of the trainer.
    autoescape=select_autoescape(enabled_extensions=("html.j2",), default=False),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def render(template: str, **values: object) -> str:
    """Renders a template with its values. Raises jinja2.UndefinedError if a value is missing."""
    return _ENVIRONMENT.get_template(template).render(**values)
