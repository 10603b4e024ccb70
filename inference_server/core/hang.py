"""What supervisor and worker agree on about a worker that hangs."""

from __future__ import annotations

import signal
from typing import Final

BEAT_SECONDS: Final = 0.25
"""Time between two beats of a worker's event loop."""
STACKS_SIGNAL: Final = signal.SIGUSR2
"""Makes a worker write the stacks of its threads."""
STACKS_FILE: Final = "tandem-stacks"
"""Name of the file in memory that the stacks are written to."""
