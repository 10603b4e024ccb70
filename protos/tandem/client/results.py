"""Results: frozen dataclasses instead of wire messages, so that no caller depends on protobuf by accident."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from google.protobuf.json_format import MessageToDict
from google.protobuf.timestamp_pb2 import Timestamp

from tandem.v1 import recommendation_pb2 as pb


class Source(StrEnum):
    """How an answer was produced; named as in the API's `RecommendationSource`."""

    UNSPECIFIED = "UNSPECIFIED"
    """Unknown to this client: the server is newer."""
    RANKED = "RANKED"
    """Retrieved and then ordered by a ranker."""
    RETRIEVED = "RETRIEVED"
    """Ordered by the two-tower score."""
    CACHED = "CACHED"
    """A list stored earlier for this user."""
    POPULAR = "POPULAR"
    """The bundle's list of popular items."""


_SOURCES: Final[Mapping[int, Source]] = {
    pb.RECOMMENDATION_SOURCE_RANKED: Source.RANKED,
    pb.RECOMMENDATION_SOURCE_RETRIEVED: Source.RETRIEVED,
    pb.RECOMMENDATION_SOURCE_CACHED: Source.CACHED,
    pb.RECOMMENDATION_SOURCE_POPULAR: Source.POPULAR,
}


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Why an item was recommended."""

    source: str
    """The candidate source that proposed the item."""
    because_item_ids: tuple[str, ...]
    """Items of the user's history that are nearest to this one in the model's space, nearest first."""
    score_parts: Mapping[str, float]
    """Parts of the score by name."""
    title: str
    """Display title of the item; empty if the catalogue has none."""
    propensity: float
    """Probability with which the policy showed this item at this position, given the positions before it."""


@dataclass(frozen=True, kw_only=True)
class RecommendedItem:
    """One item of an answer."""

    item_id: str
    score: float
    """Higher is better; comparable within one answer only."""
    reason: Reason | None
    """None unless the request set `explain`."""


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """The arm of an experiment that a query is in."""

    experiment: str
    arm: str
    exposed: bool
    """Whether the arm made the answer; if not, the answer must count for no arm."""


@dataclass(frozen=True, kw_only=True)
class Recommendations:
    """The answer to one query, or one page of it."""

    request_id: str
    """Id of this answer, in logs and in later events."""
    items: tuple[RecommendedItem, ...]
    """Best first, without repeats."""
    model_version: str
    """The bundle that answered."""
    variant: str
    """The registry alias that the bundle was served under; empty without a registry."""
    source: Source
    """How the answer was produced."""
    degraded_reasons: tuple[str, ...]
    """What was skipped and why; empty when nothing was."""
    next_page_token: str
    """Token of the next page; empty if there is none."""
    warnings: tuple[str, ...] = ()
    """What is most likely wrong with the query, for example a category that no item has; empty if nothing is."""
    assignments: tuple[Assignment, ...] = ()
    """The arms of experiments that the query is in; empty outside of any."""

    @property
    def item_ids(self) -> tuple[str, ...]:
        """Ids of the items, best first."""
        return tuple(item.item_id for item in self.items)


@dataclass(frozen=True, kw_only=True)
class SimilarItems:
    """Items near other items."""

    request_id: str
    items: tuple[RecommendedItem, ...]
    """Nearest first, without repeats."""
    model_version: str
    variant: str
    warnings: tuple[str, ...] = ()
    """As in `Recommendations`."""

    @property
    def item_ids(self) -> tuple[str, ...]:
        """Ids of the items, nearest first."""
        return tuple(item.item_id for item in self.items)


@dataclass(frozen=True, kw_only=True)
class LiveCatalogue:
    """Changes of the catalogue since the bundle was made, as known to one worker."""

    sequence: int
    """Number of the last change in force; changes are numbered from 1."""
    items: int
    """Items that are recommended as they changed, or that the bundle does not hold."""
    dead_rows: int
    """Items known to the model that are not recommended: deleted, or unavailable."""
    waiting: int
    """Changed items whose vector is not computed yet."""
    put_off: int
    """Changes beyond the server's limit, deferred to the next bundle."""
    age_seconds: float
    """Time since the online store last confirmed that nothing else had changed."""


@dataclass(frozen=True, kw_only=True)
class RefusedBundle:
    """A bundle that the server did not serve."""

    registry_version: str
    """The registry's number for it; empty without a registry."""
    model_version: str
    reason: str
    """What is wrong and where, after the kind."""
    refused_at: datetime


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """A model that serves, or shall serve."""

    alias: str
    """The registry alias or version number that names it; empty for a bundle folder."""
    model_version: str
    """What answers under that name; empty while nothing does."""
    registry_version: str
    loaded_at: datetime | None
    """None while nothing answers."""
    refusal: str
    """Why nothing answers, or why the newest version does not; empty: nothing is wrong."""


@dataclass(frozen=True, kw_only=True)
class ExperimentTable:
    """Which experiments run, and where that is known from."""

    source: str
    """`file` or `unleash`; `disk`: the last known table, not confirmed since the start; empty: there is no table."""
    fingerprint: str
    """SHA-256 of its definitions, hex."""
    age_seconds: float
    """Time since the source last confirmed it."""
    refusal: str
    """Why the newest table is not in force; empty if it is."""
    experiments: tuple[str, ...]
    """Names, in the order of their layers."""


@dataclass(frozen=True, kw_only=True)
class Canary:
    """A new version of the model that takes traffic in steps. Counts are those of this server, all workers together."""

    experiment: str
    """Its name in `assignments`, where its arms are `canary` and `control`."""
    registry_version: str
    model_version: str
    state: str
    """`running`, `promoted` or `taken_back`."""
    reason: str
    """Why it was taken back or promoted; empty while it runs."""
    problem: str
    """Why it does not go on here although it runs; empty: it goes on."""
    started_at: datetime
    started_by: str
    steps: tuple[float, ...]
    """Shares of the users in percent, one for each step."""
    step: int
    """The step that it is in, from 1."""
    percent: float
    """Share of the users in percent that this server gives it now."""
    answers: int
    control_answers: int
    harmed_answers: int
    harmed_share: float
    """`harmed_answers` as a share of all answers of this server since the canary began."""
    seconds: float
    """Time from its first share of the users to its end, or to now."""


@dataclass(frozen=True, kw_only=True)
class ServingStatus:
    """What one worker of the server serves, and its state. Counts are of this worker since its start."""

    model_version: str
    """The bundle in service; empty before the first bundle."""
    variant: str
    registry_version: str
    manifest: Mapping[str, Any]
    """The manifest of the bundle without the list of files."""
    started_at: datetime | None
    """In UTC, like all times here."""
    model_loaded_at: datetime | None
    """None before the first bundle."""
    uptime_seconds: float
    dependencies: Mapping[str, str]
    """`up` or `down`, by name of the dependency."""
    answers_by_source: Mapping[str, int]
    """Number of answers by the API's name of the source, for example RECOMMENDATION_SOURCE_POPULAR."""
    degraded_by_reason: Mapping[str, int]
    bundles_refused: int
    last_refusal: str
    """Why the last refused bundle was refused; empty if none was."""
    breakers: Mapping[str, str]
    """`closed`, `open` or `half_open`, by name of the breaker."""
    problems: Mapping[str, str]
    """What is wrong with a dependency, by its name: why it is down, or what endangers its data although it is up."""
    worker: int
    """Number of the worker that answered, out of `num_workers`."""
    num_workers: int
    policies_fingerprint: str
    """SHA-256 of the policies in force, hex; empty if only the built-in policy is."""
    live_catalogue: LiveCatalogue
    refused_bundles: tuple[RefusedBundle, ...]
    """Refused since the start, newest first, at most 10."""
    models: tuple[ServedModel, ...]
    """The models that requests are answered with, the server's own first."""
    experiments: ExperimentTable
    canary: Canary | None
    """The newest canary of the alias; None where there has been none."""


def recommendations_of(wire: pb.RecommendResponse) -> Recommendations:
    """Converts a wire message."""
    return Recommendations(
        request_id=wire.request_id,
        items=_items(wire.items),
        model_version=wire.model_version,
        variant=wire.variant,
        source=_SOURCES.get(wire.source, Source.UNSPECIFIED),
        degraded_reasons=tuple(wire.degraded_reasons),
        next_page_token=wire.next_page_token,
        warnings=tuple(wire.warnings),
        assignments=tuple(
            Assignment(experiment=assignment.experiment, arm=assignment.arm, exposed=assignment.exposed)
            for assignment in wire.assignments
        ),
    )


def similar_items_of(wire: pb.SimilarItemsResponse) -> SimilarItems:
    """Converts a wire message."""
    return SimilarItems(
        request_id=wire.request_id,
        items=_items(wire.items),
        model_version=wire.model_version,
        variant=wire.variant,
        warnings=tuple(wire.warnings),
    )


def serving_status_of(wire: pb.GetServingStatusResponse) -> ServingStatus:
    """Converts a wire message."""
    return ServingStatus(
        model_version=wire.model_version,
        variant=wire.variant,
        registry_version=wire.registry_version,
        manifest=MessageToDict(wire.manifest),
        started_at=_time(wire.started_at) if wire.HasField("started_at") else None,
        model_loaded_at=_time(wire.model_loaded_at) if wire.HasField("model_loaded_at") else None,
        uptime_seconds=wire.uptime_seconds,
        dependencies=dict(wire.dependencies),
        answers_by_source=dict(wire.answers_by_source),
        degraded_by_reason=dict(wire.degraded_by_reason),
        bundles_refused=wire.bundles_refused,
        last_refusal=wire.last_refusal,
        breakers=dict(wire.breakers),
        problems=dict(wire.problems),
        worker=wire.worker,
        num_workers=wire.num_workers,
        policies_fingerprint=wire.policies_fingerprint,
        live_catalogue=LiveCatalogue(
            sequence=wire.live_catalogue.sequence,
            items=wire.live_catalogue.items,
            dead_rows=wire.live_catalogue.dead_rows,
            waiting=wire.live_catalogue.waiting,
            put_off=wire.live_catalogue.put_off,
            age_seconds=wire.live_catalogue.age_seconds,
        ),
        refused_bundles=tuple(
            RefusedBundle(
                registry_version=bundle.registry_version,
                model_version=bundle.model_version,
                reason=bundle.reason,
                refused_at=_time(bundle.refused_at),
            )
            for bundle in wire.refused_bundles
        ),
        models=tuple(
            ServedModel(
                alias=model.alias,
                model_version=model.model_version,
                registry_version=model.registry_version,
                loaded_at=_time(model.loaded_at) if model.HasField("loaded_at") else None,
                refusal=model.refusal,
            )
            for model in wire.models
        ),
        experiments=ExperimentTable(
            source=wire.experiments.source,
            fingerprint=wire.experiments.fingerprint,
            age_seconds=wire.experiments.age_seconds,
            refusal=wire.experiments.refusal,
            experiments=tuple(wire.experiments.experiments),
        ),
        canary=_canary(wire.canary) if wire.HasField("canary") else None,
    )


def _canary(wire: pb.Canary) -> Canary:
    return Canary(
        experiment=wire.experiment,
        registry_version=wire.registry_version,
        model_version=wire.model_version,
        state=wire.state,
        reason=wire.reason,
        problem=wire.problem,
        started_at=_time(wire.started_at),
        started_by=wire.started_by,
        steps=tuple(wire.steps),
        step=wire.step,
        percent=wire.percent,
        answers=wire.answers,
        control_answers=wire.control_answers,
        harmed_answers=wire.harmed_answers,
        harmed_share=wire.harmed_share,
        seconds=wire.seconds,
    )


def _items(wire: Iterable[pb.RecommendedItem]) -> tuple[RecommendedItem, ...]:
    return tuple(
        RecommendedItem(
            item_id=item.item_id, score=item.score, reason=_reason(item.reason) if item.HasField("reason") else None
        )
        for item in wire
    )


def _reason(wire: pb.Reason) -> Reason:
    return Reason(
        source=wire.source,
        because_item_ids=tuple(wire.because_item_ids),
        score_parts=dict(wire.score_parts),
        title=wire.title,
        propensity=wire.propensity,
    )


def _time(wire: Timestamp) -> datetime:
    return wire.ToDatetime(tzinfo=UTC)
