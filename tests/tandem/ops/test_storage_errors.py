"""The one line about a disk."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from tandem.ops.storage_errors import storage_error_line

DATA_DIR = Path("/srv/tandem")
LARGER = "; free some space, or set TANDEM_DATA_DIR or TMPDIR to a folder on a larger disk"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "/srv/tandem/prepared/x"),
            f"/srv/tandem/prepared/x: No space left on device (TANDEM_DATA_DIR is /srv/tandem){LARGER}",
        ),
        (OSError(errno.ENOSPC, "No space left on device", "/tmp/x"), f"/tmp/x: No space left on device{LARGER}"),
        (
            OSError(errno.ENOSPC, "Error writing bytes to file"),
            f"Error writing bytes to file (TANDEM_DATA_DIR is /srv/tandem){LARGER}",
        ),
        (
            NotADirectoryError(errno.ENOTDIR, "Not a directory", "/srv/tandem"),
            "/srv/tandem: Not a directory (TANDEM_DATA_DIR is /srv/tandem)",
        ),
        (OSError(errno.EACCES, "Permission denied", "/a", None, "/b"), "/b: Permission denied"),
        (OSError("first line\nsecond"), "first line second (TANDEM_DATA_DIR is /srv/tandem)"),
    ],
)
def test_file_reason_and_setting_are_named(error: OSError, line: str) -> None:
    assert storage_error_line(error, DATA_DIR) == line
