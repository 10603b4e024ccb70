"""One bundle, opened to answer with. Immutable: a request takes one at admission and uses nothing else of any model."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from inference_server.bitmap import Bitmap
from inference_server.catalogue import Catalogue
from inference_server.engine.index import ItemIndex
from inference_server.engine.towers import UserTower
from tandem.contract.bundle import Bundle, read_bundle
from tandem.contract.errors import BundleIncompatible
from tandem.contract.features import encode_index, encode_users
from tandem.contract.store import UserState
from tandem.contract.vocabulary import MISSING_ROW, Keys, Rows

_WARM_UP_ITEMS = 10


@dataclass(frozen=True, kw_only=True)
class ServingModel:
    """A bundle with its engines."""

    bundle: Bundle
    catalogue: Catalogue
    index: ItemIndex
    user_tower: UserTower
    variant: str
    """The alias it is served under; empty without a registry."""
    registry_version: str
    """The registry's number for it; empty without a registry."""
    loaded_at_seconds: float
    """Seconds since 1970."""

    @property
    def version(self) -> str:
        """The bundle's model version."""
        return self.bundle.manifest.model_version

    def known_rows(self, keys: Keys) -> Rows:
        """Rows of the keys that the catalogue holds: (n,) uint64 -> (m,) int64, m <= n."""
        rows = self.bundle.item_vocabulary.rows_of_keys(keys)
        known: Rows = rows[rows != MISSING_ROW]
        return known

    def encode_user(self, user_id: str, state: UserState) -> npt.NDArray[np.float32]:
        """The user tower's vector of one user: (dim,) float32. Runs the tower, so it belongs into a thread."""
        users = self.bundle.user_vocabulary
        tensors = encode_users(
            [state],
            schema=self.bundle.manifest.feature_schema,
            item_vocabulary=self.bundle.item_vocabulary,
            item_vectors=self.bundle.item_vectors,
            user_index=None if users is None else encode_index(users.rows([user_id])),
        )
        vector: npt.NDArray[np.float32] = self.user_tower.encode(tensors)[0]
        return vector

    def everything(self) -> Bitmap:
        """The filter that allows every item."""
        return self.catalogue.allowed((), ())


def open_model(
    directory: Path, *, variant: str = "", registry_version: str = "", verify_checksums: bool = True
) -> ServingModel:
    """Opens a bundle in the real engines and runs each once, so that the first request finds them warm.

    `verify_checksums=False` is for a folder that the supervisor has just had checked. Raises BundleError.
    """
    bundle = read_bundle(directory, verify_checksums=verify_checksums)
    manifest = bundle.manifest
    model = ServingModel(
        bundle=bundle,
        catalogue=Catalogue(bundle),
        index=ItemIndex(
            bundle.index, num_items=len(bundle.items), dim=manifest.embedding_dim, nprobe=manifest.index.nprobe
        ),
        user_tower=UserTower(bundle.user_tower, manifest.feature_schema),
        variant=variant,
        registry_version=registry_version,
        loaded_at_seconds=time.time(),
    )
    _warm_up(model)
    return model


def _warm_up(model: ServingModel) -> None:
    try:
        vector = model.encode_user("", UserState())
    except Exception as error:  # ONNX Runtime raises many kinds for inputs a tower cannot take; each means the same
        raise BundleIncompatible(f"{model.bundle.user_tower.name} fails on a user's tensors: {error}") from error
    dim = model.bundle.manifest.embedding_dim
    if vector.shape != (dim,):
        raise BundleIncompatible(f"{model.bundle.user_tower.name} makes vectors of shape {vector.shape}, not ({dim},)")
    model.index.nearest(model.bundle.item_vectors[0], _WARM_UP_ITEMS, model.everything())


class ModelSlot:
    """The one pointer that a swap moves."""

    def __init__(self) -> None:
        self.current: ServingModel | None = None
        """The model that requests admitted now are answered with; None before the first one."""
