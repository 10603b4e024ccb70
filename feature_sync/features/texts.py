"""Embeds new and changed texts of items with the encoder that the served bundle names."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, Final

import structlog

from feature_sync.features.sources import Row, Sources
from feature_sync.towers.texts import TextEmbeddings
from tandem.contract import names
from tandem.contract.features import FeatureSchema
from tandem.contract.item_features import item_text
from tandem.contract.streams import AppliedItemChange
from tandem.text.encoder import identity

_TEXTS_AT_A_TIME: Final = 1_000

_log = structlog.get_logger(__name__)


def text_rows(
    sources: Sources,
    texts_of_data: str,
    changes: Mapping[str, AppliedItemChange],
    schema: FeatureSchema,
    *,
    threads: int,
) -> Iterator[list[Row]]:
    """Rows of items whose text the source does not have yet, in batches; none if the bundle reads no text.

    `texts_of_data` is a query of `history.item_texts_sql`. If an item's first text comes from the data, it is valid
    from the time that the data give, as the item's profile is; any other text is valid from now. Raises
    TextEncoderError.
    """
    if not schema.text_dim:
        return
    encoder = identity(schema.text_encoder, max_tokens=schema.text_max_tokens)
    stored = sources.newest_values(names.ITEM_TEXT_VIEW, names.TEXT_HASH)
    missing: list[tuple[str, dict[str, Any]]] = []
    for item in _items(sources, texts_of_data, changes):
        text = item_text(item[names.TITLE], item[names.DESCRIPTION], item[names.CATEGORIES])
        text_hash = hashlib.sha256(f"{encoder}\n{text}".encode()).hexdigest()
        item_id = item[names.ITEM_ID]
        if text and stored.get(item_id) != text_hash:
            known_at = None if item_id in stored else item[names.KNOWN_AT]
            missing.append((text, {names.ITEM_ID: item_id, names.TEXT_HASH: text_hash, names.KNOWN_AT: known_at}))
    embeddings = TextEmbeddings(threads=threads)
    missing.sort(key=lambda entry: len(entry[0]))  # texts of similar length need little padding
    for start in range(0, len(missing), _TEXTS_AT_A_TIME):
        texts, rows = zip(*missing[start : start + _TEXTS_AT_A_TIME], strict=True)
        vectors = embeddings.embed(texts, schema)
        yield [{**row, names.TEXT_EMBEDDING: vector.tolist()} for row, vector in zip(rows, vectors, strict=True)]
        _log.info("texts_encoded", num_texts=start + len(texts), of=len(missing), encoder=schema.text_encoder)


def _items(sources: Sources, texts_of_data: str, changes: Mapping[str, AppliedItemChange]) -> list[dict[str, Any]]:
    """The text fields of each item: those of its newest change if there is one."""
    items = [item for item in sources.rows(texts_of_data) if item[names.ITEM_ID] not in changes]
    for item_id, applied in changes.items():
        change = applied.change
        if not change.deleted:
            items.append(
                {
                    names.ITEM_ID: item_id,
                    names.TITLE: change.title,
                    names.DESCRIPTION: change.description,
                    names.CATEGORIES: list(change.categories),
                    names.KNOWN_AT: change.changed_at,
                }
            )
    return items
