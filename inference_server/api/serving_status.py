"""GetServingStatus: what is served, since when, and what failed, as the message that gRPC and HTTP both return."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from inference_server.api.shadow_status import to_comparison
from inference_server.api.wire import WIRE_SOURCES
from inference_server.core.canary_status import CanaryStatus
from inference_server.model.serving_model import ModelSlot, ServingModel
from inference_server.telemetry.shadow_summary import shadow_summaries
from inference_server.telemetry.statistics import Statistics
from tandem.contract.manifest import Manifest
from tandem.v1 import recommendation_pb2 as pb


def serving_status(statistics: Statistics, models: ModelSlot) -> pb.GetServingStatusResponse:
    """The status now."""
    statistics.refresh()
    response = pb.GetServingStatusResponse(
        uptime_seconds=time.time() - statistics.started_at_seconds,
        dependencies={name: "up" if up else "down" for name, up in statistics.dependencies_up.items()},
        answers_by_source={
            pb.RecommendationSource.Name(WIRE_SOURCES[source]): count
            for source, count in statistics.answers_by_source.items()
        },
        degraded_by_reason={str(reason): n for reason, n in statistics.degraded_by_reason.items() if n},
        bundles_refused=statistics.refusals_by_kind.total(),
        last_refusal=statistics.last_refusal,
        breakers=statistics.breakers,
        problems=statistics.dependency_problems,
        policies_fingerprint=statistics.policies_fingerprint,
        worker=statistics.identity.worker,
        num_workers=statistics.identity.num_workers,
    )
    response.live_catalogue.sequence = statistics.live_sequence
    response.live_catalogue.items = statistics.live_items
    response.live_catalogue.dead_rows = statistics.live_dead_rows
    response.live_catalogue.waiting = statistics.live_waiting
    response.live_catalogue.put_off = statistics.live_put_off
    response.live_catalogue.age_seconds = statistics.live_age_seconds
    table = statistics.experiments
    response.experiments.source = table.source
    response.experiments.fingerprint = table.fingerprint
    response.experiments.age_seconds = table.age_seconds
    response.experiments.refusal = table.refusal
    response.experiments.experiments.extend(table.experiments)
    _add_canary(response, statistics.canary)
    for refusal in statistics.refusals:
        bundle = response.refused_bundles.add(
            registry_version=refusal.registry_version, model_version=refusal.model_version, reason=refusal.reason
        )
        bundle.refused_at.FromNanoseconds(int(refusal.refused_at_seconds * 1e9))
    response.started_at.FromNanoseconds(int(statistics.started_at_seconds * 1e9))
    _add_models(response, models, statistics.further_models)
    response.shadows.extend(map(to_comparison, shadow_summaries(statistics)))
    model = models.current
    if model is not None:
        response.model_version = model.version
        response.variant = model.variant
        response.registry_version = model.registry_version
        response.model_loaded_at.FromNanoseconds(int(model.loaded_at_seconds * 1e9))
        response.manifest.update(_summary(model.bundle.manifest))
    return response


def _add_models(response: pb.GetServingStatusResponse, models: ModelSlot, problems: Mapping[str, str]) -> None:
    """Adds the models in force, and those that shall be: `problems` by name, empty where nothing is wrong."""
    if models.current is not None:
        _add_model(response, models.current.variant, models.current, "")
    for name, problem in sorted(problems.items()):
        _add_model(response, name, models.further.get(name), problem)


def _add_canary(response: pb.GetServingStatusResponse, canary: CanaryStatus) -> None:
    if not canary.experiment:
        return
    response.canary.CopyFrom(
        pb.Canary(
            experiment=canary.experiment,
            registry_version=canary.registry_version,
            model_version=canary.model_version,
            state=canary.state,
            reason=canary.reason,
            problem=canary.problem,
            started_by=canary.started_by,
            steps=canary.steps,
            step=canary.step,
            percent=canary.percent,
            answers=canary.answers,
            control_answers=canary.control_answers,
            harmed_answers=canary.harmed,
            harmed_share=canary.harmed_share,
            seconds=canary.seconds,
        )
    )
    response.canary.started_at.FromNanoseconds(int(canary.started_at_seconds * 1e9))


def _add_model(response: pb.GetServingStatusResponse, name: str, model: ServingModel | None, problem: str) -> None:
    served = response.models.add(alias=name, refusal=problem)
    if model is not None:
        served.model_version = model.version
        served.registry_version = model.registry_version
        served.loaded_at.FromNanoseconds(int(model.loaded_at_seconds * 1e9))


def _summary(manifest: Manifest) -> dict[str, Any]:
    """The manifest without its list of files."""
    summary: dict[str, Any] = json.loads(manifest.to_json())
    del summary["files"]
    return summary
