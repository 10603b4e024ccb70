"""The environment variables of the nightly run, collected from the docstrings of its settings."""

from __future__ import annotations

import re
from pathlib import Path

_SETTINGS = Path(__file__).resolve().parents[3] / "deploy" / "nightly" / "settings.py"

VARIABLES = frozenset(re.findall(r"\bTANDEM_NIGHTLY_[A-Z_]*[A-Z]\b", _SETTINGS.read_text()))
