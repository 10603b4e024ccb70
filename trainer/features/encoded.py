"""A data set as the towers read it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tandem.contract import names
from tandem.contract.features import FeatureSchema, Tensors
from tandem.contract.item_features import encode_item_index
from trainer.compute.device import choose_device
from trainer.config.train_config import TrainConfig
from trainer.core.settings import Settings
from trainer.data.prepare import PreparedData
from trainer.dataset.dataset import Dataset, leave_last_out, load_dataset
from trainer.features.content import content_vectors
from trainer.features.growth import extended_schema
from trainer.features.schema import build_schema, catalogue_texts, item_inputs
from trainer.features.text import embed_texts


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """A data set ready for the towers."""

    dataset: Dataset
    schema: FeatureSchema
    item_tensors: Tensors
    content_vectors: npt.NDArray[np.float16] | None
    """(items, content_dim) float16; None for a catalogue without texts and categories."""

    def text_embeddings(self) -> npt.NDArray[np.float32]:
        """(items, text_dim) float32; text_dim is 0 without an encoder."""
        no_text = np.zeros((len(self.dataset.catalogue), 0), dtype=np.float32)
        return np.asarray(self.item_tensors.get(names.TEXT_EMBEDDING, no_text), dtype=np.float32)

    def knowing(self, known: Dataset, *, learned_from: Dataset | None = None) -> Encoded:
        """The same users and catalogue, with only the events of `known`.

        An item keeps its id if `learned_from` (by default `known`) has an interaction with it.
        """
        popularity = (learned_from or known).popularity(known.lengths if learned_from is None else learned_from.lengths)
        item_index = encode_item_index(np.arange(len(popularity)), popularity)
        return replace(self, dataset=known, item_tensors={**self.item_tensors, names.ITEM_INDEX: item_index})


def encode(prepared: PreparedData, config: TrainConfig, settings: Settings) -> Encoded:
    """Reads the prepared data and encodes catalogue and users for the towers."""
    return encode_dataset(load_dataset(prepared.directory), config, settings)


def encode_dataset(
    dataset: Dataset, config: TrainConfig, settings: Settings, *, extend: FeatureSchema | None = None
) -> Encoded:
    """As `encode`, for data in memory. With `extend`, the codes of that schema keep their meaning; new codes follow."""
    embeddings = embed_texts(
        catalogue_texts(dataset.catalogue),
        config.text,
        cache_dir=settings.data_dir / "embeddings",
        device=choose_device(config.fit.device),
    )
    schema = build_schema(dataset, config, text_dim=embeddings.shape[1])
    if extend is not None:
        schema = extended_schema(extend, schema)
    popularity = dataset.popularity(leave_last_out(dataset, skip=0).num_history_events)
    item_tensors = item_inputs(dataset.catalogue, schema, text_embeddings=embeddings, popularity=popularity)
    return Encoded(
        dataset=dataset,
        schema=schema,
        item_tensors=item_tensors,
        content_vectors=content_vectors(dataset.catalogue, embeddings, config.content),
    )
