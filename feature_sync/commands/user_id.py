"""The argument USER_ID: an id as the API takes it."""

from __future__ import annotations

import argparse

from tandem.contract.store import MAX_ID_BYTES


def checked_user_id(text: str) -> str:
    """The id. Raises ArgumentTypeError for a text that can be nobody's id, which is never the id that was meant."""
    try:
        num_bytes = len(text.encode())
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError("is not UTF-8") from None
    if not 1 <= num_bytes <= MAX_ID_BYTES:
        raise argparse.ArgumentTypeError(f"must have 1 to {MAX_ID_BYTES} bytes, has {num_bytes}")
    return text
