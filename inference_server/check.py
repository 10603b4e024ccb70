"""The check of a bundle before it serves: the real engines answer questions whose answers are known.

Runs in a process of its own, `python -m inference_server check DIR` (see `check_process`): a damaged index or model can
crash the native libraries, and then only the check dies. Checksums say that a bundle is what was written; the golden
queries say that what was written gives the right answers, here, with this machine's engines.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np

from inference_server.engine.search import Allowed
from inference_server.errors import BundleRefused, RefusalKind
from inference_server.serving_model import NO_ROWS, ServingModel, open_model
from tandem.contract.bundle import GoldenQueries
from tandem.contract.errors import BundleError

MIN_GOLDEN_OVERLAP: Final = 0.99
"""Least share of the golden answers that a search of all lists must find, mean over the queries."""


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """What the check of a good bundle found."""

    model_version: str
    num_items: int
    num_golden_queries: int
    golden_overlap: float
    """Share of the golden answers found by a search of all lists."""
    recall_at_nprobe: float
    """Share of the golden answers found by a search as it is served."""


def check_bundle(directory: Path) -> CheckReport:
    """Verifies checksums, opens a bundle in the real engines, and asks the golden queries. Raises BundleRefused."""
    try:
        model = open_model(directory)
    except BundleError as error:
        raise BundleRefused(RefusalKind.of(error), str(error)) from error
    golden = model.bundle.golden_queries
    if golden.expected_rows.ndim != 2 or golden.expected_rows.size == 0:
        raise BundleRefused(RefusalKind.GOLDEN_QUERIES, "the bundle holds no golden queries")
    try:
        vectors = model.user_tower.encode(golden.inputs)
    except Exception as error:  # ONNX Runtime raises many kinds for inputs a tower cannot take; each refuses the bundle
        raise BundleRefused(
            RefusalKind.GOLDEN_QUERIES, f"the user tower fails on the golden inputs: {error!r}"
        ) from error
    expected_shape = (len(golden.expected_rows), model.bundle.manifest.embedding_dim)
    if vectors.shape != expected_shape:
        raise BundleRefused(
            RefusalKind.GOLDEN_QUERIES,
            f"the user tower makes vectors of shape {vectors.shape}, expected {expected_shape}",
        )
    if not np.isfinite(vectors).all():
        raise BundleRefused(RefusalKind.GOLDEN_QUERIES, "the user tower makes vectors that are NaN or infinite")
    overlap = _recall(model, vectors, golden, exhaustive=True)
    if overlap < MIN_GOLDEN_OVERLAP:
        raise BundleRefused(
            RefusalKind.GOLDEN_QUERIES,
            f"the index finds {overlap:.4f} of the golden answers, at least {MIN_GOLDEN_OVERLAP} needed",
        )
    return CheckReport(
        model_version=model.version,
        num_items=len(model.bundle.items),
        num_golden_queries=len(vectors),
        golden_overlap=overlap,
        recall_at_nprobe=_recall(model, vectors, golden, exhaustive=False),
    )


def report_json(result: CheckReport | BundleRefused) -> str:
    """One line of JSON, as `check_process` reads it."""
    if isinstance(result, BundleRefused):
        return json.dumps({"reason_kind": result.reason_kind, "reason": result.reason})
    return json.dumps(asdict(result))


def describe(report: CheckReport) -> str:
    """One line for people."""
    return (
        f"ok: {report.model_version}, {report.num_items} items; {report.num_golden_queries} golden queries: "
        f"{report.golden_overlap:.4f} found searching all lists, {report.recall_at_nprobe:.4f} as served"
    )


def _recall(
    model: ServingModel, vectors: np.typing.NDArray[np.float32], golden: GoldenQueries, *, exhaustive: bool
) -> float:
    everything = [Allowed(None, NO_ROWS)]
    k = golden.expected_rows.shape[1]
    found = 0
    for vector, expected in zip(vectors, golden.expected_rows, strict=True):
        rows = model.index.nearest(vector.reshape(1, -1), k, everything, exhaustive=exhaustive).rows
        found += len(np.intersect1d(rows, expected))
    return found / golden.expected_rows.size
