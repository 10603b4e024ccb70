"""Writes docs/settings.md from the settings classes of the programs and the keys of the training configuration.

`python -m deploy.packaging.settings_page` does it. A test compares the page with what this module would write.
"""

from __future__ import annotations

import json
from pathlib import Path

import feature_sync.core.settings
import inference_server.core.settings
import trainer.core.settings
from tandem.ops.environment_settings import EnvironmentSettings, described_settings
from trainer.config.help import explanation
from trainer.config.train_config import TrainConfig

PAGE = Path("docs/settings.md")
_PROGRAMS: tuple[tuple[str, type[EnvironmentSettings]], ...] = (
    ("trainer", trainer.core.settings.Settings),
    ("feature_sync", feature_sync.core.settings.Settings),
    ("inference_server", inference_server.core.settings.Settings),
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
        for setting in described_settings(settings):
            default = setting.default.replace(str(Path.cwd()), "<working folder>")
            rows.append(f"| `{setting.variable}` | `{default}` | {setting.description} |")
        parts.append("\n".join(rows))
    parts += [
        "## Training configuration",
        "Keys of the file that `--config` takes and of `--set KEY=VALUE`, in `trainer/config/train_config.py`. "
        "`python -m trainer train --help-config` prints them as such a file; `python -m trainer prepare --help-data` "
        "prints the keys that describe a data set.",
        _training_keys(),
    ]
    return "\n\n".join(parts) + "\n"


def _training_keys() -> str:
    rows = ["| key | default | unit, effect, when to change it |", "| --- | --- | --- |"]
    for section, values in TrainConfig():
        for name, field in type(values).model_fields.items():
            default = json.dumps(getattr(values, name))
            rows.append(f"| `{section}.{name}` | `{default}` | {explanation(field).replace('|', chr(92) + '|')} |")
    return "\n".join(rows)


if __name__ == "__main__":
    PAGE.write_text(settings_page())
