"""Writes docs/settings.md from the settings classes of the programs: `python -m deploy.packaging.settings_page`.

A test compares the page with what this module would write.
"""

from __future__ import annotations

from pathlib import Path

from pydantic_settings import BaseSettings

import feature_sync.settings
import inference_server.settings
import trainer.settings

PAGE = Path("docs/settings.md")
_PROGRAMS: tuple[tuple[str, type[BaseSettings]], ...] = (
    ("trainer", trainer.settings.Settings),
    ("feature_sync", feature_sync.settings.Settings),
    ("inference_server", inference_server.settings.Settings),
)


def settings_page() -> str:
    """The page: one table for each program."""
    parts = [
        "# Settings",
        "Every setting is an environment variable, read and checked once at start; a wrong one ends the program with a "
        "line that names it. This page is written by `python -m deploy.packaging.settings_page`.",
    ]
    for program, settings in _PROGRAMS:
        rows = [f"## {program}", "", "| variable | default | unit, effect, when to change it |", "| --- | --- | --- |"]
        for name, field in settings.model_fields.items():
            default = field.get_default(call_default_factory=True, validated_data={})
            shown = "" if default is None else str(default).replace(str(Path.cwd()), "<working folder>")
            description = " ".join((field.description or "").split())
            rows.append(f"| `TANDEM_{name.upper()}` | `{shown}` | {description} |")
        parts.append("\n".join(rows))
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(settings_page())
