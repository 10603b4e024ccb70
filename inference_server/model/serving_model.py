"""One bundle, opened to answer with. Immutable: a request takes a model at admission and uses no other."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from inference_server.model.catalogue.bundle_catalogue import BundleCatalogue
from inference_server.model.catalogue.catalogue import Catalogue
from inference_server.model.catalogue.filter_cache import FilterCache
from inference_server.model.catalogue.live_catalogue import LiveCatalogue
from inference_server.model.catalogue.live_items import LiveItems, no_live_items
from inference_server.model.engine.content import ContentScorer
from inference_server.model.engine.exact import ExactSearch
from inference_server.model.engine.index import ItemIndex
from inference_server.model.engine.linear import LinearSource, linear_sources
from inference_server.model.engine.live_search import LiveSearch
from inference_server.model.engine.search import EXACT_MAX_ITEMS, Allowed, ItemSearch
from inference_server.model.engine.towers import UserTower
from inference_server.model.objectives import ItemValues
from inference_server.model.page_token import PageTokens, tokens_of_bundle
from inference_server.model.rankers.ranker import Ranker, RankerBatch
from inference_server.model.rankers.registry import RANKERS
from tandem.contract.bundle import Bundle, read_bundle
from tandem.contract.errors import BundleIncompatible, unreadable_bundles
from tandem.contract.features import encode_index, encode_users
from tandem.contract.manifest import MANIFEST
from tandem.contract.ranking import PROFILE_EVENTS
from tandem.contract.store import UserState
from tandem.contract.vocabulary import NO_ROWS, Keys, Rows

_WARM_UP_ITEMS = 10


@dataclass(frozen=True, kw_only=True)
class ServingModel:
    """A bundle with its engines."""

    bundle: Bundle
    filters: FilterCache
    """The filter cache of `bundle_catalogue`."""
    bundle_catalogue: BundleCatalogue
    """The items of the bundle alone."""
    catalogue: Catalogue
    """The items that requests are answered with: the bundle's items and the live items."""
    index: ItemIndex
    """The bundle's FAISS index."""
    bundle_search: ExactSearch | ItemIndex
    """Searches `bundle_catalogue`: the index, or exact search where the catalogue is small."""
    search: ItemSearch
    """Searches `catalogue`, for requests."""
    live: LiveItems
    """How the catalogue has changed since the bundle was made."""
    user_tower: UserTower
    content: ContentScorer | None
    linear: Mapping[str, LinearSource]
    """The item-item and the sequential source, by name, where the bundle has them."""
    rankers: Mapping[str, Ranker]
    """The rankers that the bundle has, by name, in the order in which `ranker: auto` prefers them."""
    item_values: ItemValues
    """What choices of the bundle's items are worth under a policy's objectives."""
    page_tokens: PageTokens
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

    @cached_property
    def num_events_ranked_by(self) -> int:
        """Number of newest events that ranking and the sources beside the two towers read: the same number as in the
        trainer, because its measurements hold for that order alone."""
        return max(PROFILE_EVENTS, *(source.num_events for source in self.linear.values()), 0)

    @cached_property
    def reads_whole_histories(self) -> bool:
        """Whether a source reads items that users chose before the events that the online store keeps."""
        return any(source.spec.whole_history for source in self.linear.values())

    def known_rows(self, keys: Keys) -> Rows:
        """Rows of the keys that the catalogue holds: (n,) uint64 -> (m,) int64, m <= n."""
        return self.catalogue.known_rows(keys)

    def user_index(self, user_ids: list[str]) -> npt.NDArray[np.int64] | None:
        """Inputs of an embedding of user ids: (users,) int64; None where the bundle has none."""
        users = self.bundle.user_vocabulary
        return None if users is None else encode_index(users.rows(user_ids))

    def encode_users(self, user_ids: list[str], states: list[UserState]) -> npt.NDArray[np.float32]:
        """The user tower's vectors: (users, dim) float32. Requests run it in a thread when it is slow."""
        tensors = encode_users(
            states,
            schema=self.bundle.manifest.feature_schema,
            item_vocabulary=self.catalogue.vocabulary,
            item_vectors=self.catalogue.vectors,
            user_index=self.user_index(user_ids),
        )
        return self.user_tower.encode(tensors)


def open_model(
    directory: Path, *, variant: str = "", registry_version: str = "", verify_checksums: bool = True
) -> ServingModel:
    """Opens a bundle in the real engines and runs each engine once, so that the first request finds it warm.

    `verify_checksums=False` is for a folder whose checksums the supervisor has just had verified. Raises BundleError.
    """
    with unreadable_bundles("the bundle cannot be opened"):
        return _opened(
            read_bundle(directory, verify_checksums=verify_checksums),
            variant=variant,
            registry_version=registry_version,
        )


def _opened(bundle: Bundle, *, variant: str, registry_version: str) -> ServingModel:
    manifest = bundle.manifest
    index = ItemIndex.open(bundle.index, item_vectors=bundle.item_vectors, nprobe=manifest.index.nprobe)
    exact = len(bundle.items) <= EXACT_MAX_ITEMS
    filters = FilterCache()
    catalogue = BundleCatalogue(bundle, filters)
    search = ExactSearch.from_vectors(bundle.item_vectors) if exact else index
    live = no_live_items(len(bundle.items), manifest.embedding_dim, dead=bundle.items.unavailable_rows)
    model = ServingModel(
        bundle=bundle,
        filters=filters,
        bundle_catalogue=catalogue,
        catalogue=catalogue,
        index=index,
        bundle_search=search,
        search=search,
        live=live,
        user_tower=UserTower(bundle.user_tower, manifest.feature_schema),
        content=ContentScorer(bundle.content) if bundle.content is not None else None,
        linear=linear_sources(bundle),
        rankers={ranker.name: ranker for kind in RANKERS if (ranker := kind.open(bundle)) is not None},
        item_values=ItemValues(bundle),
        page_tokens=tokens_of_bundle((bundle.directory / MANIFEST).read_bytes()),
        variant=variant,
        registry_version=registry_version,
        loaded_at_seconds=time.time(),
    )
    model = with_live(model, live)
    _warm_up(model)
    return model


def with_live(model: ServingModel, live: LiveItems) -> ServingModel:
    """A copy of the model with `live` in place of its live items."""
    if live.changes_nothing:
        return replace(model, catalogue=model.bundle_catalogue, search=model.bundle_search, live=live)
    catalogue = LiveCatalogue(model.bundle_catalogue, live, model.filters.with_same_lists())
    search = model.bundle_search
    live_search = search.with_live(live) if isinstance(search, ExactSearch) else LiveSearch(search, live)
    return replace(model, catalogue=catalogue, search=live_search, live=live)


def _warm_up(model: ServingModel) -> None:
    try:
        vectors = model.encode_users([""], [UserState()])
    except Exception as error:  # ONNX Runtime raises many types; each means that the tower cannot take its inputs
        raise BundleIncompatible(f"{model.bundle.user_tower.name} fails on a user's tensors: {error}") from error
    dim = model.bundle.manifest.embedding_dim
    if vectors.shape != (1, dim):
        raise BundleIncompatible(
            f"{model.bundle.user_tower.name} makes vectors of shape {vectors.shape}, not (1, {dim})"
        )
    queries = np.asarray(model.bundle.item_vectors[:1])
    for search in (model.search, model.index):
        found = search.nearest(queries, _WARM_UP_ITEMS, [Allowed(None, NO_ROWS)])
    batch = RankerBatch(
        user_vectors=queries,
        user_index=model.user_index([""]),
        rows=np.maximum(found.rows, 0),
        collaborative=found.scores,
        content=np.zeros_like(found.scores),
        item_item=np.zeros_like(found.scores),
        sequential=np.zeros_like(found.scores),
        catalogue=model.bundle_catalogue,
    )
    for ranker in model.rankers.values():
        if not ranker.runs_long:
            continue
        try:
            ranker.score(batch)
        except Exception as error:  # as above
            raise BundleIncompatible(f"the ranker fails on candidates: {error}") from error


class ModelSlot:
    """The models in force: one reference for each, which a swap changes."""

    def __init__(self) -> None:
        self.current: ServingModel | None = None
        """The server's own model, for requests that are admitted now; None before the first model is loaded."""
        self.further: dict[str, ServingModel] = {}
        """The models that answer beside it, by the alias or version number that names them."""

    def named(self, name: str) -> ServingModel | None:
        """The model in force under an alias or version number; None where none is."""
        found = self.further.get(name)
        current = self.current
        if found is None and current is not None and name in {current.variant, current.registry_version}:
            return current
        return found

    def that_issued(self, page_token: str, likely: ServingModel) -> ServingModel:
        """The model whose list a page token continues, whatever model the user's requests go to by now; `likely` where
        it is that model, or none."""
        if self.further and not likely.page_tokens.issued(page_token):
            for model in (self.current, *self.further.values()):
                if model is not None and model.page_tokens.issued(page_token):
                    return model
        return likely
