"""The text encoder alone, and compared with the trainer's cache."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tandem.contract.errors import TextEncoderError
from tandem.text.encoder import MINILM, TextEncoder, identity
from trainer.config.train_config import TextConfig
from trainer.features.text import embed_texts

TEXTS = ["Star Wars. Science Fiction", "Cooking pasta at home, for beginners", "Heat"]


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder(MINILM, max_tokens=16)


def test_cached_embeddings_of_the_trainer_are_those_of_the_encoder(encoder: TextEncoder, tmp_path: Path) -> None:
    cached = embed_texts(TEXTS, TextConfig(max_tokens=16), cache_dir=tmp_path, device=torch.device("cpu"))
    by_length = sorted(TEXTS, key=len)  # the trainer's batch
    batch_embeddings = dict(zip(by_length, encoder.encode(by_length), strict=True))
    assert np.array_equal(cached, np.stack([batch_embeddings[text] for text in TEXTS]))
    alone = np.concatenate([encoder.encode([text]) for text in TEXTS])
    assert np.abs(cached - alone).max() < 1e-6  # padding moves the last bits


def test_texts_are_cut(encoder: TextEncoder) -> None:
    long = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    assert np.array_equal(encoder.encode([long]), encoder.encode([long + " and never read"]))
    uncut = TextEncoder(MINILM, max_tokens=32)
    assert np.abs(uncut.encode([long + " but read"]) - encoder.encode([long])).max() > 1e-3


def test_identity_names_the_encoder_its_weights_and_the_cut() -> None:
    assert identity(MINILM, max_tokens=16).startswith("minilm|16|model.safetensors:")
    assert identity(MINILM, max_tokens=16) != identity(MINILM, max_tokens=32)
    assert identity("someone/some-encoder", max_tokens=16) == "someone/some-encoder|16"


def test_an_encoder_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    with pytest.raises(TextEncoderError, match=str(tmp_path)):
        TextEncoder(str(tmp_path), max_tokens=16)


@pytest.mark.process
def test_the_module_itself_is_light() -> None:
    program = "import sys, tandem.text.encoder; print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert not set(done.stdout.split()) & {"torch", "transformers", "pyarrow"}
