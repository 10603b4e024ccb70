"""Every retrieval source beside the two towers. To add a source, write its folder and name it in SOURCES."""

from __future__ import annotations

from collections.abc import Mapping

from tandem.contract.bundle import Bundle
from trainer.config.train_config import TrainConfig
from trainer.dataset.dataset import Cut
from trainer.features.encoded import Encoded
from trainer.sources.base.source import BlendedSource, FittedSource, Shares, Source
from trainer.sources.content.source import CONTENT
from trainer.sources.item_item.source import ITEM_ITEM

SOURCES: tuple[Source, ...] = (CONTENT, ITEM_ITEM)
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
    return {name: source for name, source in fitted.items() if source is not None}


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
    """Weight of every source that a blend can have, by source key, and the decay of a source with a decay."""
    weights = {source.key: shares[source.key].weight if source.key in shares else 0.0 for source in blended_sources()}
    decays = [share.decay_events for share in shares.values() if share.decay_events is not None]
    return {**weights, **({"decay_events": decays[0]} if decays else {})}


def _is_served(source: Source, shares: Shares) -> bool:
    if not isinstance(source, BlendedSource):
        return True
    return source.key in shares and source.is_served(shares[source.key])
