"""Writes docs/reference/bundle.md from the table of bundle files.

`python -m deploy.packaging.bundle_page` does it. A test compares the page with what this module would write.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tandem.contract.bundle_files import BUNDLE_FILES, BundleFile
from tandem.contract.manifest import FORMAT_VERSION, MANIFEST, READABLE_FORMAT_VERSIONS

PAGE = Path("docs/reference/bundle.md")


def bundle_page() -> str:
    """The page: a table with one line for each file."""
    readable = ", ".join(str(version) for version in sorted(READABLE_FORMAT_VERSIONS - {FORMAT_VERSION}))
    parts = [
        "# Files of a bundle",
        "A bundle is one directory that holds everything one model version needs to be served. "
        "`protos/tandem/contract/bundle_files.py` defines its files, `protos/tandem/contract/bundle.py` writes, checks "
        "and opens them. This page is written by `python -m deploy.packaging.bundle_page`.",
        f"`{MANIFEST}` says what the bundle is and what it was made from, and lists the size and the SHA-256 of every "
        f"other file. The format version is {FORMAT_VERSION}; versions {readable} can still be read. Row i of every "
        "array with `items` rows is the same item; there are as many `keys` as `items`.",
        "\n".join(["| file | format | content | needed |", "| --- | --- | --- | --- |", *map(_row, BUNDLE_FILES)]),
        "A derived file follows from the files named and is there so that processes that serve the same bundle share "
        "its memory. A bundle without it can be read; each process then computes its own.",
    ]
    return "\n\n".join(parts) + "\n"


def _row(file: BundleFile[Any]) -> str:
    needed = file.needed_when.text
    if file.derived_from:
        needed = f"derived from {', '.join(f'`{name}`' for name in file.derived_from)}"
    return f"| `{file.name}` | {file.format.title} | {file.description} | {needed} |"


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(bundle_page())
