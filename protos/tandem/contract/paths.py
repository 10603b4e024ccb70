"""Names from outside (a registry, a manifest) as names of files and folders on this machine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from tandem.contract.errors import BundleIncompatible

_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_SHOWN_CHARACTERS: Final = 60


def is_plain_name(name: object) -> bool:
    """Whether the value is 1 to 128 letters, digits, ".", "_" and "-", the first of them a letter or a digit.

    Such a name stays in its folder: it has no separator, no drive and no NUL, is not ".." and hides no file.
    """
    return isinstance(name, str) and _PLAIN_NAME.fullmatch(name) is not None


def path_within(folder: Path, name: str, what: str) -> Path:
    """The path of the entry `name` of `folder`, which may not exist.

    Raises BundleIncompatible, which calls the name a `what`, if the name is not plain (see `is_plain_name`) or if the
    entry is a symbolic link, which would lead elsewhere.
    """
    if not is_plain_name(name):
        shown = name if len(name) <= _SHOWN_CHARACTERS else f"{name[:_SHOWN_CHARACTERS]}..."
        raise BundleIncompatible(f"{what} {shown!r} is not a plain name of letters, digits, '.', '_' and '-'")
    path = folder / name
    if path.is_symlink():
        raise BundleIncompatible(f"{what} {name!r} is a symbolic link in {folder}")
    return path
