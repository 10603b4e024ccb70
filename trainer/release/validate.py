"""Validates a registered version: has the serving engine answer held-out users, decides, and leaves a report."""

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
from tandem.contract.served import Refused, Served, ndcg, recall, reciprocal_rank
from tandem.ops.model_registry import RegisteredVersion
from trainer.config.train_config import GateConfig
from trainer.registry.registry import (
    GATE_AGAINST_TAG,
    GATE_PASSED,
    GATE_REFUSED,
    GATE_TAG,
    Registry,
)
from trainer.release.gate import NUM_SHOWN, GateDecision, decide
from trainer.release.gate_report import GateReport, write_report
from trainer.release.held_out_users import HeldOutSample
from trainer.release.serving_engine import ask_serving_engine

log = structlog.get_logger()

GATE_ARTIFACT: Final = "gate"
"""The folder among a run's artifacts that holds the report, the users' ranks and the verdict."""
REPORT_MARKDOWN: Final = "gate.md"
REPORT_HTML: Final = "gate.html"
_RESULT: Final = "served.json"


@dataclass(frozen=True, kw_only=True)
class Validation:
    """What came of it."""

    version: RegisteredVersion
    """With the tags that say what came of it."""
    champion: RegisteredVersion | None
    """What it was compared with; None where there is none, or the version is the champion itself."""
    decision: GateDecision
    metrics: dict[str, float]
    """As they are logged, "gate/ndcg@10" for example; empty for a bundle that could not be asked."""
    report_uri: str
    """Where MLflow keeps the report, as Markdown."""


def validate(
    registry: Registry,
    version: RegisteredVersion,
    sample_of: Callable[[Path], HeldOutSample],
    limits: GateConfig,
    *,
    report_path: Path | None = None,
) -> Validation:
    """Judges a version against the champion of now, and records the verdict with the version; it moves no alias.

    `sample_of` gives the held-out users, told the folder of the candidate's bundle. `report_path` is where the report
    is written too: as HTML if it ends so, else as Markdown.

    Raises RegistryError where bundles cannot be had, GateError where the serving engine cannot be asked, DataError
    where there is no held-out user.
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
    """What is logged of a candidate and, under "gate/champion/", of the champion."""
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
        return ("It is the champion already, so that there is nothing to compare with.",)
    if champion_bundle is None:
        return ("There is no champion yet to compare with.",)
    try:
        learned_from = read_manifest(champion_bundle).training_data.num_interactions
    except BundleError:  # the check says so
        return ()
    if learned_from <= sample.num_interactions:
        return ()
    return (
        f"The champion was trained from {learned_from} interactions, more than the {sample.num_interactions} that "
        "these users come from: it may have learned what is asked here, which favours it.",
    )
