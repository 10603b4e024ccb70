"""Embeds items' texts with the encoders that bundles name. Keeps the encoders and the newest embeddings in memory.

A text is needed again for a second bundle, after a retry of a batch, and when a new champion catches up.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import structlog

from feature_sync.core.errors import TowerError
from tandem.contract.features import FeatureSchema
from tandem.text.encoder import TextEncoder

_BATCH_TEXTS: Final = 32
_MAX_KEPT: Final = 10_000
"""Number of embeddings kept; with 384 dimensions they take 15 MB."""

_log = structlog.get_logger(__name__)

_Encoder = tuple[str, int]
"""An encoder's name and the length at which it truncates texts."""


class TextEmbeddings:
    """Encodes texts. Not thread-safe."""

    def __init__(self, *, threads: int) -> None:
        """`threads` is the number of cores that an encoder may use."""
        self._threads = threads
        self._encoders: dict[_Encoder, TextEncoder] = {}
        self._kept: OrderedDict[tuple[_Encoder, bytes], npt.NDArray[np.float32]] = OrderedDict()

    def open(self, schema: FeatureSchema) -> None:
        """Loads the schema's encoder if it is not loaded yet, which takes seconds. Raises TextEncoderError."""
        name = (schema.text_encoder, schema.text_max_tokens)
        if not schema.text_dim or name in self._encoders:
            return
        self._encoders[name] = TextEncoder(
            schema.text_encoder, max_tokens=schema.text_max_tokens, threads=self._threads
        )
        _log.info("text_encoder_loaded", encoder=schema.text_encoder, max_tokens=schema.text_max_tokens)

    def embed(self, texts: Sequence[str], schema: FeatureSchema) -> npt.NDArray[np.float32]:
        """(texts, text_dim) float32, zero for an empty text. Raises TextEncoderError, TowerError."""
        embeddings = np.zeros((len(texts), schema.text_dim), dtype=np.float32)
        if not schema.text_dim or not any(texts):
            return embeddings
        name = (schema.text_encoder, schema.text_max_tokens)
        keys = [(name, hashlib.sha256(text.encode()).digest()) for text in texts]
        missing = {key: text for key, text in zip(keys, texts, strict=True) if text and key not in self._kept}
        found = {key: self._kept[key] for key in keys if key in self._kept}
        found.update(self._encode(missing, schema))
        for row, (key, text) in enumerate(zip(keys, texts, strict=True)):
            if text:
                embeddings[row] = found[key]
                self._kept[key] = found[key]
                self._kept.move_to_end(key)
        while len(self._kept) > _MAX_KEPT:
            self._kept.popitem(last=False)
        return embeddings

    def _encode(
        self, texts: dict[tuple[_Encoder, bytes], str], schema: FeatureSchema
    ) -> dict[tuple[_Encoder, bytes], npt.NDArray[np.float32]]:
        if not texts:
            return {}
        self.open(schema)
        encoder = self._encoders[schema.text_encoder, schema.text_max_tokens]
        by_length = sorted(texts, key=lambda key: len(texts[key]))  # texts of similar length need little padding
        encoded: dict[tuple[_Encoder, bytes], npt.NDArray[np.float32]] = {}
        for start in range(0, len(by_length), _BATCH_TEXTS):
            batch = by_length[start : start + _BATCH_TEXTS]
            embeddings = encoder.encode([texts[key] for key in batch])
            if embeddings.shape[1] != schema.text_dim:
                raise TowerError(
                    f"{schema.text_encoder!r} makes {embeddings.shape[1]} dimensions here, "
                    f"the bundle was trained on {schema.text_dim}: it is not the same encoder"
                )
            encoded.update(zip(batch, embeddings, strict=True))
        return encoded
