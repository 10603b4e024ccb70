"""The gate's report for human readers: the decision, its reasons and all measurements, in Markdown and HTML."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tandem.contract.served import Refused, Served, ServedBundle, ndcg, recall, reciprocal_rank
from tandem.contract.whole_files import write_whole
from tandem.ops.model_registry import RegisteredVersion
from trainer.config.train_config import GateConfig
from trainer.evaluation.metrics import bootstrap_mean
from trainer.release.gate import GateDecision
from trainer.release.held_out_users import HeldOutSample
from trainer.rendering.render import render


@dataclass(frozen=True, kw_only=True)
class GateReport:
    """Contents of a report."""

    version: RegisteredVersion
    champion: RegisteredVersion | None
    sample: HeldOutSample
    decision: GateDecision
    limits: GateConfig
    result: Served | Refused

    @property
    def title(self) -> str:
        """Version and verdict in one line."""
        verdict = "passed" if self.decision.passed else "refused"
        return f"Version {self.version.number} ({self.version.model_version}): {verdict} by the gate"

    @property
    def question(self) -> str:
        """The users, and the models that answered them, in one sentence."""
        against = "" if self.champion is None else f", beside version {self.champion.number}, the champion"
        return f"{len(self.sample.users):,} held-out users, {self.sample.origin}, answered as it is served{against}."

    @property
    def columns(self) -> list[str]:
        """Column headings of the table of measurements."""
        return ["candidate", *(["champion"] if self._champion is not None else []), "popularity"]

    @property
    def rows(self) -> list[tuple[str, list[str]]]:
        """Measured values by name, one for each column; empty if the bundle was refused."""
        if isinstance(self.result, Refused):
            return []
        candidate, champion, k = self.result.candidate, self._champion, self.result.num_shown
        bundles = [candidate, *([champion] if champion is not None else [])]
        rows = [
            (
                f"{name}@{k}",
                [
                    _interval(metric(ranks))
                    for ranks in (*(bundle.ranks for bundle in bundles), candidate.popularity_ranks)
                ],
            )
            for name, metric in (("NDCG", ndcg), ("recall", recall), ("MRR", reciprocal_rank))
        ]
        return rows + [(name, [*map(describe, bundles), ""]) for name, describe in _BUNDLE_ROWS.items()]

    @property
    def _champion(self) -> ServedBundle | None:
        return None if isinstance(self.result, Refused) else self.result.against


def write_report(report: GateReport, path: Path) -> None:
    """Writes the report: as one HTML page, which loads no other file, if the suffix is .html or .htm, else as
    Markdown."""
    template = "gate.html.j2" if path.suffix.lower() in {".html", ".htm"} else "gate.md.j2"
    write_whole(path, render(template, report=report))


def _interval(per_user: npt.NDArray[np.float64]) -> str:
    return str(bootstrap_mean(per_user))


def _coverage(bundle: ServedBundle) -> str:
    return f"{bundle.coverage:.4f}, {bundle.num_recommended_items:,} of {bundle.num_items:,} items"


def _latency(bundle: ServedBundle) -> str:
    return ", ".join(f"{name} {milliseconds:.2f}" for name, milliseconds in bundle.latency_ms.items())


def _degraded(bundle: ServedBundle) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in bundle.degraded_answers.items()) or "none"


def _sources(bundle: ServedBundle) -> str:
    return ", ".join(f"{count:,} {source}" for source, count in bundle.answers_by_source.items())


_BUNDLE_ROWS = {
    "coverage": _coverage,
    "novelty, bits": lambda bundle: f"{bundle.novelty_bits:.2f}",
    "milliseconds to an answer": _latency,
    "degraded answers": _degraded,
    "answers by source": _sources,
}
