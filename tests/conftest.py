"""What all tests have in common."""

from __future__ import annotations

from hypothesis import settings

# A busy machine is no defect: no example has a time limit.
settings.register_profile("tandem", deadline=None)
settings.load_profile("tandem")
