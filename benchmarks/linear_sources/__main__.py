"""What the sources that know pairs of items recommend without any tower, each alone and blended, and beside towers.

    python -m benchmarks.linear_sources PREPARED [--protocol leave-last-out|random] [--large] [--towers [KEY=VALUE ...]]

`PREPARED` is a folder that `python -m trainer prepare` printed. Everything is chosen on validation, then fitted again
on training and validation part, and the test items are asked for once. Prints one row for each method, and the seconds
that it took. "Before" is the item-item source as it was: EASE with l2 = 300, 100 weights an item, and the newest 200
events. With `--towers`, two towers are trained once, and blended with the sources as before and as now.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from tandem.contract.features import FeatureSchema, Tensors
from tandem.contract.names import HISTORY_EVENT_CODES
from trainer.baselines.ease import Ease
from trainer.config.train_config import TrainConfig, load_train_config
from trainer.core.settings import Settings
from trainer.dataset.dataset import load_dataset
from trainer.experiments.protocols import Protocol, protocol_of
from trainer.features.encoded import Encoded, encode_dataset
from trainer.rankers.blend.choice import calibrate, choose_blend
from trainer.rankers.blend.settle import settle_sources
from trainer.scoring.full_evaluation import evaluate
from trainer.scoring.scorer import Scorer
from trainer.scoring.scoring_model import ScoringModel
from trainer.scoring.served_scorers import ModelScorer, ServedScorer
from trainer.sources.all_sources import fit_sources
from trainer.sources.base.source import FittedSource, Share, Shares
from trainer.training.fit import FitResult, unreported
from trainer.training.train import FittedTowers, fit_towers, scoring_model

_OFF: Final = "0"
_ALONE: Final = "1"
_SHARES: Final = "0,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.85,1"
_CONTENT: Final = "0,0.05,0.1,0.2,0.3,0.4"
METRICS: Final = ("ndcg@10", "recall@10", "map@10")


@dataclass(frozen=True)
class Method:
    """A blend without towers."""

    name: str
    overrides: Mapping[str, str]
    newest_events_only: bool = False
    """Whether the events before those that the online store keeps are left out."""


def _shares(*, sequential: str = _OFF, item_item: str = _OFF, content: str = _OFF) -> dict[str, str]:
    return {
        "ranker.sequential_weights": sequential,
        "ranker.item_item_weights": item_item,
        "ranker.content_weights": content,
    }


_BEFORE: Final = {"item_item.l2": "300", "item_item.dropout": "0", "item_item.num_neighbours": "100"}
METHODS: Final = (
    Method("item-item, before", {**_shares(item_item=_ALONE), **_BEFORE}, newest_events_only=True),
    Method("item-item", _shares(item_item=_ALONE)),
    Method("sequential", _shares(sequential=_ALONE)),
    Method("both", _shares(sequential=_ALONE, item_item=_SHARES)),
    Method("both and content", _shares(sequential=_ALONE, item_item=_SHARES, content=_CONTENT)),
)
NEIGHBOURS: Final = (
    Method("item-item, neighbours by cosine", {**_shares(item_item=_ALONE), "item_item.max_items": "1"}),
    Method("sequential, counts", {**_shares(sequential=_ALONE), "sequential.max_items": "1"}),
    Method(
        "both, as above 20,000 items",
        {
            **_shares(sequential=_ALONE, item_item=_SHARES),
            "item_item.max_items": "1",
            "sequential.max_items": "1",
        },
    ),
)


BESIDE_TOWERS: Final = (
    Method("as served, before", {**_shares(item_item=_SHARES, content=_CONTENT), **_BEFORE}, newest_events_only=True),
    Method("as served", _shares(sequential=_SHARES, item_item=_SHARES, content=_CONTENT)),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures one data set by one protocol."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prepared", type=Path)
    parser.add_argument("--protocol", choices=("leave-last-out", "random"), default="leave-last-out")
    parser.add_argument("--large", action="store_true", help="also measure the forms for more than 20,000 items")
    parser.add_argument("--methods", nargs="*", help="only methods with these names")
    parser.add_argument(
        "--towers", nargs="*", metavar="KEY=VALUE", help="train two towers too, with these keys of the configuration"
    )
    options = parser.parse_args(arguments)
    keys = dict(pair.split("=", 1) for pair in options.towers or ())
    config = load_train_config(None, keys if options.towers is not None else {"text.encoder": "none"})
    encoded = encode_dataset(load_dataset(options.prepared), config, Settings())
    protocol = protocol_of(encoded, options.protocol)
    towers = None if options.towers is None else fit_towers(protocol.plan, config, on_epoch=unreported)
    split = protocol.questions[0].split
    print(
        "| method | NDCG@10 | Recall@10 | MAP@10 | shares and decays | seconds |\n| --- | --- | --- | --- | --- | --- |"
    )
    methods = BESIDE_TOWERS if towers is not None else (*METHODS, *(NEIGHBOURS if options.large else ()))
    if towers is not None:
        model = scoring_model(towers.final.model, protocol.plan.final, {})
        means = evaluate(split, ServedScorer(split.known, ModelScorer(split.known, model, None)), name="").means()
        print(f"| two towers alone | {' | '.join(f'{means[metric]:.4f}' for metric in METRICS)} | | |", flush=True)
    for method in methods:
        if options.methods and method.name not in options.methods:
            continue
        started = time.monotonic()
        scorer, shares, settled = _fitted(method, protocol, towers)
        seconds = time.monotonic() - started
        means = evaluate(split, scorer, name=method.name).means()
        described = ", ".join(_described(key, share, settled) for key, share in shares.items() if share.weight)
        figures = " | ".join(f"{means[metric]:.4f}" for metric in METRICS)
        print(f"| {method.name} | {figures} | {described} | {seconds:.0f} |", flush=True)
    if options.protocol == "random":
        means = evaluate(split, Ease().fit(split.known), name="EASE").means()
        print(f"| EASE of the baselines | {' | '.join(f'{means[metric]:.4f}' for metric in METRICS)} | | |", flush=True)


def _described(key: str, share: Share, config: TrainConfig) -> str:
    text = f"{key} {share.weight:g}"
    if key == "item_item":
        text += f" (l2 {config.item_item.l2[0]:g}, dropout {config.item_item.dropout[0]:g}, "
        text += f"{config.item_item.num_neighbours[0]} weights, decay {share.decay_events:g})"
    if key == "sequential":
        text += f" (l2 {config.sequential.l2[0]:g}, {config.sequential.num_neighbours[0]} weights, "
        text += f"decay {share.decay_events:g})"
    return text


def _fitted(method: Method, protocol: Protocol, towers: FittedTowers | None) -> tuple[Scorer, Shares, TrainConfig]:
    """Chooses on validation, fits again, and returns the scorer of the test items."""
    plan = protocol.plan
    config = load_train_config(None, {"text.encoder": "none", **method.overrides})
    # A source without a share need not be fitted.
    for section, weights in (
        ("item_item", config.ranker.item_item_weights),
        ("sequential", config.ranker.sequential_weights),
    ):
        if weights == (0.0,):
            off = getattr(config, section).model_copy(update={"max_items": 0})
            config = config.model_copy(update={section: off})
    config = settle_sources(plan.selection, plan.validation, config)
    selection = _model(
        plan.selection,
        fit_sources(plan.selection, plan.validation, config),
        None if towers is None else towers.selected,
    )
    choice = choose_blend(plan.selection.dataset, plan.validation, selection, config)
    shares = dict(choice.shares or {})
    if method.newest_events_only:
        shares = {key: Share(share.weight, share.decay_events) for key, share in shares.items()}
    final = _model(
        plan.final, fit_sources(plan.final, plan.cut, config, shares), None if towers is None else towers.final
    )
    spec = calibrate(plan.final.dataset, plan.cut, final, shares)
    known = protocol.questions[0].split.known
    return ServedScorer(known, ModelScorer(known, final, spec)), shares, config


def _model(encoded: Encoded, sources: Mapping[str, FittedSource], towers: FitResult | None) -> ScoringModel:
    """A model with these towers; without, every item has the same score by them."""
    if towers is not None:
        return scoring_model(towers.model, encoded, sources)

    def no_vectors(tensors: Tensors) -> npt.NDArray[np.float32]:
        return np.zeros((len(tensors[HISTORY_EVENT_CODES]), 1), dtype=np.float32)

    return ScoringModel(
        schema=FeatureSchema(history_length=1),
        item_vocabulary=encoded.dataset.catalogue.vocabulary,
        user_vocabulary=None,
        item_vectors=np.zeros((len(encoded.dataset.catalogue), 1), dtype=np.float32),
        user_vectors=no_vectors,
        sources=sources,
        unavailable_rows=encoded.dataset.catalogue.unavailable_rows,
    )


if __name__ == "__main__":
    main()
