"""Validates a registered version: the serving engine answers held-out users, the gate decides and writes a report."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from tandem.contract.bundle import read_manifest
from tandem.contract.errors import BundleError
from tandem.contract.held_out_users import write_held_out_users
from tandem.contract.names import GATE_AGAINST_TAG, GATE_PASSED, GATE_REFUSED, GATE_TAG
from tandem.contract.served import Refused, Served, ndcg, recall, reciprocal_rank
from tandem.ops.model_registry import RegisteredVersion
from trainer.config.train_config import GateConfig
from trainer.registry.registry import Registry
from trainer.release.gate import NUM_SHOWN, GateDecision, decide
from trainer.release.gate_report import GateReport, write_report
from trainer.release.held_out_users import HeldOutSample
from trainer.release.serving_engine import ask_serving_engine

log = structlog.get_logger()

GATE_ARTIFACT: Final = "gate"
"""Artifact folder of a run with the report, the users' ranks and the verdict."""
REPORT_MARKDOWN: Final = "gate.md"
REPORT_HTML: Final = "gate.html"
_RESULT: Final = "served.json"


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Result of a validation."""

    version: RegisteredVersion
    """The validated version, with the tags of its verdict."""
    champion: RegisteredVersion | None
    """The version it was compared with; None if there is no champion, or the version is the champion itself."""
    decision: GateDecision
    metrics: dict[str, float]
    """Metrics by the names under which they are logged, such as "gate/ndcg@10"; empty for a refused bundle."""
    report_uri: str
    """Artifact URI of the report in Markdown."""


def validate(
    registry: Registry,
    version: RegisteredVersion,
    sample_of: Callable[[Path], HeldOutSample],
    limits: GateConfig,
    *,
    report_path: Path | None = None,
) -> Validation:
    """Judges a version against the present champion, and records the verdict with the version. No alias moves.

    `sample_of` takes the folder of the candidate's bundle and returns the held-out users. `report_path` is an
    additional path for the report, see `write_report`.

    Raises RegistryError if a bundle cannot be downloaded, GateError if the serving engine cannot be run, DataError if
    there are no held-out users.
    """
    champion = registry.champion()
    compared = None if champion == version else champion
    with tempfile.TemporaryDirectory(prefix="tandem-gate-") as name:
        scratch = Path(name)
        bundle = registry.download(version, scratch / "candidate")
        champion_bundle = None if compared is None else registry.download(compared, scratch / "champion")
        sample = sample_of(bundle)
        results = scratch / "results"
        results.mkdir()
        result = _ask(bundle, champion_bundle, sample, scratch / "held_out_users.jsonl", results / _RESULT)
        notes = _notes(sample, champion_bundle, is_champion=champion == version)
        decision = decide(result, limits, notes=notes)
        report = GateReport(
            version=version, champion=compared, sample=sample, decision=decision, limits=limits, result=result
        )
        for path in (results / REPORT_MARKDOWN, results / REPORT_HTML, *([report_path] if report_path else [])):
            write_report(report, path)
        metrics = gate_metrics(result)
        folder_uri = registry.record(version, results, GATE_ARTIFACT, metrics)
    verdict = GATE_PASSED if decision.passed else GATE_REFUSED
    registry.tag(version, {GATE_TAG: verdict, GATE_AGAINST_TAG: champion.number if champion else ""})
    log.info(
        "version_validated",
        registry_version=version.number,
        against=compared.number if compared else None,
        passed=decision.passed,
        failures=[check.name for check in decision.failures],
    )
    return Validation(
        version=registry.find(version.number),
        champion=compared,
        decision=decision,
        metrics=metrics,
        report_uri=f"{folder_uri}/{REPORT_MARKDOWN}",
    )


def gate_metrics(result: Served | Refused) -> dict[str, float]:
    """Metrics to log: "gate/" for the candidate, "gate/champion/" for the champion."""
    if isinstance(result, Refused):
        return {}
    metrics: dict[str, float] = {}
    for prefix, bundle in (("gate", result.candidate), ("gate/champion", result.against)):
        if bundle is None:
            continue
        metrics |= {
            f"{prefix}/ndcg@{result.num_shown}": float(ndcg(bundle.ranks).mean()),
            f"{prefix}/recall@{result.num_shown}": float(recall(bundle.ranks).mean()),
            f"{prefix}/mrr@{result.num_shown}": float(reciprocal_rank(bundle.ranks).mean()),
            f"{prefix}/coverage": bundle.coverage,
            f"{prefix}/novelty_bits": bundle.novelty_bits,
            f"{prefix}/latency_p99_ms": bundle.latency_ms["p99"],
            f"{prefix}/degraded_answers": float(bundle.num_degraded_answers),
        }
    return metrics


def _ask(
    bundle: Path, champion_bundle: Path | None, sample: HeldOutSample, users: Path, output: Path
) -> Served | Refused:
    write_held_out_users(users, sample.users)
    return ask_serving_engine(bundle, users, against=champion_bundle, num_shown=NUM_SHOWN, output=output)


def _notes(sample: HeldOutSample, champion_bundle: Path | None, *, is_champion: bool) -> tuple[str, ...]:
    if is_champion:
        return ("The version is the champion already, so there is nothing to compare it with.",)
    if champion_bundle is None:
        return ("There is no champion yet to compare the version with.",)
    try:
        num_trained_on = read_manifest(champion_bundle).training_data.num_interactions
    except BundleError:  # the check reports it
        return ()
    if num_trained_on <= sample.num_interactions:
        return ()
    return (
        f"The champion was trained on {num_trained_on} interactions, more than the {sample.num_interactions} in the "
        "data of these users: it may have been trained on their held-out items, which favours it.",
    )
