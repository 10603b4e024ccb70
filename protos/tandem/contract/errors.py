"""Exceptions of the contract.

ContractError
+-- BundleError            a bundle that must not be served
|   +-- BundleCorrupt      damaged: missing or truncated file, wrong checksum, unreadable part, NaN vectors
|   +-- BundleIncompatible intact, but made for other code or inconsistent in itself: versions, dimensions, hashes
+-- StoreValueError        bytes in the online store that this version cannot read
+-- StreamEntryError       bytes of a stream entry that this version cannot read
+-- TextEncoderError       the text encoder cannot be loaded
+-- DeletedUsersUnreadable a register of deleted users that this version cannot read
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class ContractError(Exception):
    """Root of the contract's exceptions."""


class BundleError(ContractError):
    """A bundle that must not be served. The message names the file or the field."""


class BundleCorrupt(BundleError):
    """The bundle is damaged."""


class BundleIncompatible(BundleError):
    """The bundle is intact but does not fit this code, or its parts do not fit each other."""


class StoreValueError(ContractError):
    """A value in the online store that this version of the contract cannot read."""


class StreamEntryError(ContractError):
    """An entry of a stream that this version of the contract cannot read."""


class ReplayError(ContractError):
    """A file of logged requests, or of their orders, is unreadable. The message names it."""


class TextEncoderError(ContractError):
    """The text encoder cannot be loaded."""


class DeletedUsersUnreadable(ContractError):
    """A register of deleted users is not what Tandem writes. Nothing may take it for an empty one."""


@contextmanager
def unreadable_bundles(what: str) -> Iterator[None]:
    """Turns every exception of the block that is not a BundleError into BundleCorrupt, which begins with `what`.

    Whoever made a bundle decides what libraries meet in it, and they raise whatever they raise.
    """
    try:
        yield
    except BundleError:
        raise
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise BundleCorrupt(f"{what}: {type(error).__name__}{f': {reason}' if reason else ''}") from error
