"""Replays the past, period by period: is an incrementally trained model as good as a fully trained model?

The newest interactions are cut into periods of equal count. After each period two models learn from it: one by a warm
start from the period before, the other by a full training. Both are asked for the next period. So is a model that never
learned from any of the periods: the difference shows what the updates are worth.

In a period, the first half of each user's choices is known when the second half is asked for. So it is in serving,
where a choice counts for the next answer: histories are newer than models. An item is in the catalogue from the period
before its first interaction, as a shop lists an item before it is sold.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import structlog

from tandem.contract.vocabulary import Vocabulary
from trainer.config.train_config import TrainConfig
from trainer.core.errors import DataError
from trainer.core.settings import Settings
from trainer.dataset.dataset import Catalogue, Dataset
from trainer.dataset.eval_split import EvalSplit
from trainer.evaluation.evaluation import Evaluation
from trainer.experiments.test_set_metrics import SERVED, fitted_scorers
from trainer.features.encoded import encode_dataset
from trainer.scoring.full_evaluation import evaluate
from trainer.training.fit import unreported
from trainer.training.plan import TrainingPlan, plan_of_splits
from trainer.training.previous_model import PreviousModel
from trainer.training.train import Fitted, fit_plan
from trainer.training.warm_start import WarmStart, encode_warm

log = structlog.get_logger()

NEVER: Final = "never updated"
INCREMENTAL: Final = "incremental"
FULL: Final = "full training"


@dataclass(frozen=True)
class Period:
    """A period of the past; times in microseconds since 1970."""

    start: int
    end: int
    """Exclusive."""
    next_end: int
    """End of the next period, exclusive."""


@dataclass(frozen=True, kw_only=True)
class Learned:
    """A training in the replay."""

    fitted: Fitted
    plan: TrainingPlan
    seconds: float
    """Wall-clock time of schema, content vectors, selection, choice of the blend and refit. Text embeddings are
    cached."""
    cpu_seconds: float
    """Processor time of this process, which does not depend on the other load of the machine."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """An update: models learn from a period, and are asked for the next."""

    number: int
    """From 1."""
    ends: int
    """End of the period that is learned from, microseconds since 1970."""
    num_known: int
    """Interactions before that end."""
    num_new: int
    """Interactions in the period."""
    num_new_users: int
    num_new_items: int
    """Items whose first interaction is in the period, as `num_new_users` counts users."""
    seconds: Mapping[str, float]
    """Wall-clock training time, by INCREMENTAL and FULL."""
    cpu_seconds: Mapping[str, float]
    """Processor time, by INCREMENTAL and FULL."""
    epochs: Mapping[str, int]
    """The best epoch on validation, by INCREMENTAL and FULL."""
    evaluations: Mapping[str, Evaluation]
    """Evaluation on the next period, as served, by NEVER, INCREMENTAL and FULL."""


def replay(
    dataset: Dataset, config: TrainConfig, settings: Settings, *, num_periods: int, share: float
) -> tuple[Step, ...]:
    """Replays the newest `share` of the interactions in `num_periods` updates; each is evaluated on the next period.

    Raises DataError for data without times, or with too few different times for `num_periods` periods.
    """
    before, *periods = _periods(dataset, num_periods, share)
    never = previous = _learn(dataset, before, config, settings)
    steps = []
    for number, period in enumerate(periods, start=1):
        full = _learn(dataset, period, config, settings)
        incremental = _learn(dataset, period, config, settings, previous=previous)
        step = _step(dataset, number, period, {NEVER: never, INCREMENTAL: incremental, FULL: full})
        log.info(
            "replay_step",
            step=number,
            ndcg={name: round(evaluation.means()["ndcg@10"], 4) for name, evaluation in step.evaluations.items()},
            cpu_seconds={name: round(value, 1) for name, value in step.cpu_seconds.items()},
        )
        steps.append(step)
        previous = incremental
    return tuple(steps)


def _periods(dataset: Dataset, num_periods: int, share: float) -> list[Period]:
    """The period that validates the first model, then a period for each update."""
    times = np.sort(dataset.event_times)
    if not times[-1]:
        raise DataError("a replay needs times, but this data set has only the order of each user's interactions")
    first = len(times) * (1 - share)
    length = (len(times) - first) / (num_periods + 1)
    first_events = [round(first + number * length) for number in range(-1, num_periods + 1)]
    cuts = [int(times[max(event, 0)]) for event in first_events]
    if len(set(cuts)) < len(cuts) or cuts[0] <= times[0]:
        raise DataError(
            f"{share:.0%} of {len(times)} interactions have too few different times for {num_periods} periods"
        )
    cuts.append(int(times[-1]) + 1)
    return [Period(*cuts[number : number + 3]) for number in range(num_periods + 1)]


def _learn(
    dataset: Dataset,
    period: Period,
    config: TrainConfig,
    settings: Settings,
    *,
    previous: Learned | None = None,
) -> Learned:
    """Learns from all interactions before the end of a period; the interactions of the period validate first."""
    known = _known_until(dataset, period.end, catalogue_until=period.next_end)
    started, cpu_started = time.monotonic(), time.process_time()
    if previous is None:
        encoded = encode_dataset(known, config, settings)
        weights = None
    else:
        previous_model = _previous_model(previous, config)
        encoded = encode_warm(known, WarmStart(previous=previous_model), config, settings)
        weights = previous_model.weights
    validation = period_split(encoded.dataset, period.start, period.end, name="validation")
    if len(validation.users) == 0:
        raise DataError("a period has no interaction of a user with earlier interactions; ask for fewer periods")
    plan = replace(plan_of_splits(encoded, validation, encoded.dataset), weights=weights)
    fitted = fit_plan(plan, config, on_epoch=unreported)
    return Learned(
        fitted=fitted,
        plan=plan,
        seconds=time.monotonic() - started,
        cpu_seconds=time.process_time() - cpu_started,
    )


def _previous_model(learned: Learned, config: TrainConfig) -> PreviousModel:
    return PreviousModel.of(learned.fitted.model, learned.plan.final, config, learned.plan.cut.num_history_events)


def _step(dataset: Dataset, number: int, period: Period, models: Mapping[str, Learned]) -> Step:
    before, now, later = (
        _known_until(dataset, moment, catalogue_until=moment) for moment in (period.start, period.end, period.next_end)
    )
    asked = period_split(later, period.end, period.next_end, name="test")
    learned = {name: models[name] for name in (INCREMENTAL, FULL)}
    return Step(
        number=number,
        ends=period.end,
        num_known=len(now.item_rows),
        num_new=len(now.item_rows) - len(before.item_rows),
        num_new_users=int((now.lengths > 0).sum() - (before.lengths > 0).sum()),
        num_new_items=len(now.catalogue) - len(before.catalogue),
        seconds={name: model.seconds for name, model in learned.items()},
        cpu_seconds={name: model.cpu_seconds for name, model in learned.items()},
        epochs={name: model.fitted.best_epoch for name, model in learned.items()},
        evaluations={
            name: evaluate(asked, fitted_scorers(model.fitted, model.plan, asked)[SERVED], name=name)
            for name, model in models.items()
        },
    )


def period_split(dataset: Dataset, start: int, end: int, *, name: str) -> EvalSplit:
    """Asks for the second half of each user's choices from `start` until before `end`, given all earlier choices.

    A user's only choice in that time is a target. Users without a known choice are left out: every model gives them
    popular items.
    """
    inside = (dataset.event_times >= start) & (dataset.event_times < end)
    counts = np.bincount(dataset.user_rows[inside], minlength=len(dataset.user_ids))
    first_inside = dataset.lengths - counts - _num_after(dataset, end)
    num_known = first_inside + counts // 2
    users = np.flatnonzero((counts > 0) & (num_known > 0))
    index_in_history = np.arange(len(dataset.item_rows)) - np.repeat(dataset.offsets[:-1], dataset.lengths)
    user_of_event = dataset.user_rows
    is_known = index_in_history < num_known[user_of_event]
    is_target = inside & ~is_known & (num_known > 0)[user_of_event]
    return EvalSplit(
        name=name,
        known=dataset.subset(is_known),
        users=users,
        target_offsets=np.concatenate([[0], np.cumsum((counts - counts // 2)[users])]),
        target_rows=dataset.item_rows[is_target],
        target_ratings=dataset.ratings[is_target],
    )


def _num_after(dataset: Dataset, end: int) -> npt.NDArray[np.int64]:
    """(users,) int64, number of each user's events from `end` on."""
    return np.bincount(dataset.user_rows[dataset.event_times >= end], minlength=len(dataset.user_ids))


def _known_until(dataset: Dataset, end: int, *, catalogue_until: int) -> Dataset:
    """The interactions before `end`, with a catalogue of the items that have interactions before `catalogue_until`."""
    listed = np.unique(dataset.item_rows[dataset.event_times < catalogue_until])
    new_rows = np.full(len(dataset.catalogue), -1, dtype=np.int64)
    new_rows[listed] = np.arange(len(listed))
    known = dataset.subset(dataset.event_times < end)
    return replace(known, catalogue=_items(dataset.catalogue, listed), item_rows=new_rows[known.item_rows])


def _items(catalogue: Catalogue, rows: npt.NDArray[np.int64]) -> Catalogue:
    item_ids = [catalogue.item_ids[row] for row in rows]
    return Catalogue(
        item_ids=item_ids,
        titles=[catalogue.titles[row] for row in rows],
        descriptions=[catalogue.descriptions[row] for row in rows],
        categories=[catalogue.categories[row] for row in rows],
        attributes=[catalogue.attributes[row] for row in rows],
        vocabulary=Vocabulary.from_ids(item_ids),
        available=catalogue.available[rows],
    )
