"""Every retrieval source beside the two towers. To add a source, write its folder and name it in SOURCES."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tandem.contract.bundle import Bundle
from trainer.config.train_config import TrainConfig
from trainer.dataset.dataset import Cut
from trainer.features.encoded import Encoded
from trainer.sources.base.linear import FittedLinear
from trainer.sources.base.source import BlendedSource, FittedSource, Shares, Source
from trainer.sources.content.source import CONTENT
from trainer.sources.item_item.source import ITEM_ITEM
from trainer.sources.sequential.source import SEQUENTIAL

SOURCES: tuple[Source, ...] = (CONTENT, ITEM_ITEM, SEQUENTIAL)
"""In the order in which their candidates follow those of the two towers, and in which they share the blend: a source's
weight is its share of what the sources before it leave."""


def blended_sources() -> list[BlendedSource]:
    """The sources that have a share of the blend, in the order of SOURCES."""
    return [source for source in SOURCES if isinstance(source, BlendedSource)]


def fit_sources(
    encoded: Encoded, cut: Cut, config: TrainConfig, shares: Shares | None = None
) -> Mapping[str, FittedSource]:
    """Fits the sources on the events before the cut; returns them by name, without those that the data rule out.

    With `shares`, fits only the sources that a bundle with these shares serves.
    """
    served = [source for source in SOURCES if shares is None or _is_served(source, shares)]
    fitted = {source.name: source.fit(encoded, cut, config) for source in served}
    for source in blended_sources():
        linear = fitted.get(source.name)
        if shares is not None and isinstance(linear, FittedLinear):
            fitted[source.name] = replace(linear, share=shares[source.key])
    return {name: found for name, found in fitted.items() if found is not None}


def proposing(shares: Shares) -> Shares:
    """The same shares, for serving: where the two towers have no share, their candidates are of no use, so sources that
    read histories propose their items with the highest scores."""
    if all(share.weight < 1.0 for share in shares.values()):
        return shares
    return {
        key: share if share.decay_events is None else replace(share, by_score=True) for key, share in shares.items()
    }


def read_sources(bundle: Bundle) -> Mapping[str, FittedSource]:
    """The sources of a bundle, by name."""
    found = {source.name: source.read(bundle) for source in SOURCES}
    return {name: source for name, source in found.items() if source is not None}


def reported_weights(shares: Shares | None) -> dict[str, float | None]:
    """The weight of every source that a blend can have, by source key; `shares` None is a model without a blend."""
    return {
        source.key: shares[source.key].weight if shares and source.key in shares else source.without
        for source in blended_sources()
    }


def described_shares(shares: Shares) -> dict[str, float]:
    """Weight of every source that a blend can have, by source key, and the decays of the sources that have one."""
    weights = {source.key: shares[source.key].weight if source.key in shares else 0.0 for source in blended_sources()}
    decays = {
        f"{key}_decay_events": share.decay_events for key, share in shares.items() if share.decay_events is not None
    }
    return {**weights, **decays}


def _is_served(source: Source, shares: Shares) -> bool:
    if not isinstance(source, BlendedSource):
        return True
    return source.key in shares and source.is_served(shares[source.key])
