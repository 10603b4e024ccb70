"""JSON that is not one object per line: an array of objects, or objects written over several lines."""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from trainer.core.errors import DataError
from trainer.data.json_envelopes import Envelope, Pages

_MAX_DOCUMENT_CHARACTERS: Final = 16 << 20
_BETWEEN: Final = re.compile(r"[\s,]*")
_SPACE: Final = re.compile(r"\s*")
_NUM_LINES_EXAMINED: Final = 100


def is_document(lines: Iterable[str]) -> bool:
    """Whether a file with these lines holds an array of objects, or objects of several lines, not JSON lines."""
    first = next((text for line in islice(lines, _NUM_LINES_EXAMINED) if (text := line.strip())), "")
    if first.startswith("["):
        return first[1:].lstrip()[:1] in {"", "{", "]"}
    return first == "{"


def one_per_line(
    chunks: Iterable[bytes],
    path: Path,
    lines: array[int],
    envelope: Envelope | None = None,
    pages: Pages | None = None,
) -> Iterator[bytes]:
    """The objects, each on a line of its own; the number of its line in the source is added to `lines`.

    With `envelope`, they are those of its list; with `pages`, those of the list in each object. Memory holds one
    object of the file. Raises DataError, which names the line, for what is not JSON.
    """
    decoder, source = json.JSONDecoder(), iter(chunks)
    text, position, number, is_last = "", 0, 1, False
    num_skipped = envelope.start if envelope else 0
    pending, inside_array, num_bytes_examined = b"", False, 0
    is_behind = False
    while True:
        if num_skipped:
            skipped = text[position : position + num_skipped]
            number += skipped.count("\n")
            position, num_skipped = position + len(skipped), num_skipped - len(skipped)
        between = (_BETWEEN if inside_array else _SPACE).match(text, position)
        assert between is not None
        number += between.group().count("\n")
        position = between.end()
        if position < len(text) and not inside_array and not is_behind and text[position] == "[":
            inside_array, position = True, position + 1
            continue
        if position < len(text) and inside_array and text[position] == "]":
            inside_array, position = False, position + 1
            is_behind = envelope is not None
            continue
        if is_behind and is_last:
            if envelope is not None and (problem := envelope.problem_after(text[position:])):
                raise DataError(f"{path}: line {number}: not JSON after the list {envelope.key!r}: {problem}")
            return
        found = None
        is_at_object = position < len(text) and not is_behind and not num_skipped
        if is_at_object and (is_last or len(text) - position > num_bytes_examined):
            try:
                found = decoder.raw_decode(text, position)
            except json.JSONDecodeError as error:
                # Before the end of the file, an error may only mean that the object is not complete yet.
                if is_last or (error.pos < len(text) - 64 and not error.msg.startswith("Unterminated")):
                    line = number + text.count("\n", position, error.pos)
                    raise DataError(f"{path}: line {line}: not JSON: {error.msg}") from error
                num_bytes_examined = 2 * (len(text) - position)
        if found is not None and (is_last or found[1] < len(text)):
            document = text[position : found[1]]
            for offset, row in pages.rows_in(document) if pages else [(0, document)]:
                lines.append(number + document.count("\n", 0, offset))
                yield row.replace("\n", " ").encode("utf-8", "surrogateescape") + b"\n"
            number += document.count("\n")
            position, num_bytes_examined = found[1], 0
            continue
        if is_last:
            if inside_array:
                raise DataError(f"{path}: line {number}: not JSON: the array does not end")
            return
        if len(text) - position > _MAX_DOCUMENT_CHARACTERS:
            raise DataError(f"{path}: line {number}: an object of more than {_MAX_DOCUMENT_CHARACTERS >> 20} MiB")
        chunk = next(source, None)
        is_last = chunk is None
        pending += chunk or b""
        # A character may be cut in two at the end of a chunk.
        cut = len(pending) if is_last else _end_of_characters(pending)
        text, position = text[position:] + pending[:cut].decode("utf-8", "surrogateescape"), 0
        pending = pending[cut:]


def _end_of_characters(text: bytes) -> int:
    """Number of bytes up to the last character that may be incomplete."""
    for back in range(1, min(4, len(text)) + 1):
        if text[-back] >= 0xC0:
            return len(text) - back
        if text[-back] < 0x80:
            break
    return len(text)
