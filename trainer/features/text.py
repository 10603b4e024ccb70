"""Text embeddings of a catalogue's items, by the encoder that `tandem.text` runs, cached by content.

The cache is a folder per encoder of append-only files, which hold the SHA-256 and the embedding of each text. So a new
catalogue encodes only new texts, and two runs never write the same file. The processes of torchrun share the cache
folder and divide the missing texts among them; a batch has the same embeddings in every process.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import structlog
import torch
from tqdm import tqdm

from tandem.contract.errors import TextEncoderError
from tandem.text.encoder import TextEncoder, identity
from trainer.compute import distributed
from trainer.config.train_config import TextConfig
from trainer.core.errors import ConfigError

log = structlog.get_logger()

_NO_TEXT = "none"


def embed_texts(
    texts: Sequence[str], config: TextConfig, *, cache_dir: Path, device: torch.device
) -> npt.NDArray[np.float32]:
    """Embeddings of texts: (texts, text_dim) float32, zero for an empty text.

    Returns (texts, 0) if every text is empty or the encoder is "none". Raises ConfigError if the encoder cannot be
    loaded.
    """
    if config.encoder == _NO_TEXT or not any(texts):
        return np.zeros((len(texts), 0), dtype=np.float32)
    directory = cache_dir / hashlib.sha256(_identity(config).encode()).hexdigest()[:16]
    digests = [hashlib.sha256(text.encode()).digest() for text in texts]
    cached = _read_cache(directory)
    missing = {digest: text for digest, text in zip(digests, texts, strict=True) if text and digest not in cached}
    distributed.wait_for_all()  # or a process would find embeddings that another process has just written
    if missing:
        encoded = _encode(missing, config, device)
        if encoded:
            _append_to_cache(directory, list(encoded), np.stack(list(encoded.values())))
        for process_embeddings in distributed.gather(encoded):
            cached.update(process_embeddings)
    dim = len(next(iter(cached.values())))
    no_text = np.zeros(dim, dtype=np.float32)
    return np.stack([cached[digest] if text else no_text for digest, text in zip(digests, texts, strict=True)])


def _encode(
    texts: Mapping[bytes, str], config: TextConfig, device: torch.device
) -> dict[bytes, npt.NDArray[np.float32]]:
    """Embeddings, (text_dim,) float32, of this process's share of the texts; both mappings are keyed by digest."""
    try:
        encoder = TextEncoder(config.encoder, max_tokens=config.max_tokens, device=device)
    except TextEncoderError as error:
        raise ConfigError(f"text.encoder: {error}") from error
    by_length = sorted(texts, key=lambda digest: len(texts[digest]))  # texts of equal length need no padding
    batches = [by_length[start : start + config.batch_size] for start in range(0, len(texts), config.batch_size)]
    batches = batches[distributed.rank() :: distributed.num_processes()]
    embeddings: dict[bytes, npt.NDArray[np.float32]] = {}
    is_silent = distributed.rank() > 0
    with tqdm(batches, desc="embedding texts", unit="batch", disable=is_silent) as progress:
        for digests in progress:
            encoded = encoder.encode([texts[digest] for digest in digests])
            embeddings.update(zip(digests, encoded, strict=True))
    return embeddings


def _identity(config: TextConfig) -> str:
    try:
        return identity(config.encoder, max_tokens=config.max_tokens)
    except TextEncoderError as error:
        raise ConfigError(f"text.encoder: {error}") from error


def _read_cache(directory: Path) -> dict[bytes, npt.NDArray[np.float32]]:
    cached: dict[bytes, npt.NDArray[np.float32]] = {}
    for path in sorted(directory.glob("*.npz")):
        try:
            with np.load(path, allow_pickle=False) as arrays:
                cached.update(zip(map(bytes, arrays["digests"]), arrays["embeddings"], strict=True))
        except (zipfile.BadZipFile, EOFError, KeyError, ValueError, zlib.error) as error:
            log.warning("damaged_embeddings_ignored", file=str(path), reason=str(error))  # they are computed again
    return cached


def _append_to_cache(directory: Path, digests: Sequence[bytes], embeddings: npt.NDArray[np.float32]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    content = np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(len(digests), -1)
    handle, staging = tempfile.mkstemp(dir=directory, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as sink:
            np.savez(sink, allow_pickle=False, digests=content, embeddings=embeddings)
        Path(staging).rename(directory / f"{hashlib.sha256(content.tobytes()).hexdigest()[:16]}.npz")
    finally:
        Path(staging).unlink(missing_ok=True)
