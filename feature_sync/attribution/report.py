"""Writes a report of attribution: Parquet, JSON and one HTML page, in a folder that appears at once.

| file                    | content                                                                          |
| ----------------------- | -------------------------------------------------------------------------------- |
| `report.html`           | for people                                                                       |
| `report.json`           | the same for programs                                                            |
| `summary.parquet`       | a row for each value of each dimension: counts and rates                         |
| `revenue.parquet`       | a row for each of these and each currency                                        |
| `events.parquet`        | a row for each event: the item that it is owed to, or why there is none          |
| `users/EXPERIMENT.parquet` | a row for each user and arm of an experiment                                  |

A report says what is known now. Running it again for the same period takes in what happened since, so late events count
from the next run on, and nothing counts twice.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

from feature_sync.attribution.database import Database
from feature_sync.attribution.page import Findings, page
from feature_sync.attribution.plans import Analysed, Shares, analysed, read_plans
from feature_sync.attribution.question import EVENTS_FILE, USERS, Question
from feature_sync.attribution.summaries import ALL, Line, answers_not_exposed, event_counts, summaries
from feature_sync.attribution.users import experiment_users, experiments
from feature_sync.core.errors import SettingsError, StorageError
from tandem.ops.file_lock import file_lock
from tandem.ops.storage_errors import storage_error_line

_JSON: Final = "report.json"
_PAGE: Final = "report.html"
_KEYS: Final = [(name, pa.string()) for name in ("dimension", "value", "experiment", "arm")]
_WHOLE: Final = (
    *("answers", "degraded_answers", "users", "shown", "clicked", "added_to_cart", "purchased"),
    *("clicks", "add_to_carts", "purchases", "ratings"),
)
_SHARES: Final = (
    *("dwell_seconds", "latency_ms", "ctr", "add_to_cart_rate", "conversion"),
    *("dwell_seconds_per_item", "items_per_answer"),
)
_SUMMARY: Final = pa.schema(
    [*_KEYS, *((name, pa.int64()) for name in _WHOLE), *((name, pa.float64()) for name in _SHARES)]
)
_REVENUE: Final = pa.schema([*_KEYS, ("currency", pa.string()), ("revenue", pa.float64())])


def attribute(
    question: Question, output: Path, *, named_shares: Callable[[], Mapping[str, Shares]] = dict
) -> dict[str, Any]:
    """Writes the report to the folder `output`, in place of an earlier one; returns its JSON without the tables.

    `named_shares` returns the shares of arms that servers have named, and is called for experiments whose plan names
    none.

    Raises SettingsError for a folder that holds something else and for a wrong file of plans, ArchiveUnreadable, and
    StorageError.
    """
    plans = read_plans(question.plans)
    _check_replaceable(output)
    staging = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(output.with_name(f".{output.name}.lock")):
            shutil.rmtree(staging, ignore_errors=True)
            (staging / USERS).mkdir(parents=True)
            try:
                with Database(question, staging) as database:
                    found = [
                        analysed(
                            experiment_users(database, name, slow_ms=question.slow_ms),
                            plans,
                            named_shares,
                            until=question.end_us,
                        )
                        for name in experiments(database)
                    ]
                    findings = Findings(
                        question=question,
                        lines=summaries(database),
                        events=event_counts(database),
                        not_exposed=answers_not_exposed(database),
                        experiments=found,
                    )
                    database.write(
                        "SELECT * EXCLUDE (in_period) FROM attributed WHERE in_period", staging / EVENTS_FILE
                    )
                _write(findings, staging)
                _swap(staging, output)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        line = storage_error_line(error)
        raise StorageError(line if error.filename else f"{output}: {line}") from error
    return {"output": str(output), "page": str(output / _PAGE), **_overview(findings)}


def _check_replaceable(output: Path) -> None:
    if output.exists() and not output.is_dir():
        raise SettingsError(f"--output: {output} is no folder")
    if output.is_dir() and not (output / _JSON).is_file() and any(output.iterdir()):
        raise SettingsError(f"--output: {output} holds files and no earlier report; name a new folder")


def _write(findings: Findings, folder: Path) -> None:
    lines = [line for of_dimension in findings.lines.values() for line in of_dimension]
    keys = [{"dimension": line.dimension, "value": line.value, **_arm(line)} for line in lines]
    counted = [{**key, **line.counts} for key, line in zip(keys, lines, strict=True)]
    paid = [
        {**key, "currency": currency, "revenue": revenue}
        for key, line in zip(keys, lines, strict=True)
        for currency, revenue in line.revenue.items()
    ]
    pq.write_table(pa.Table.from_pylist(counted, schema=_SUMMARY), folder / "summary.parquet", compression="zstd")
    pq.write_table(pa.Table.from_pylist(paid, schema=_REVENUE), folder / "revenue.parquet", compression="zstd")
    for found in findings.experiments:
        name = f"{quote(found.users.experiment, safe='')}.parquet"
        pq.write_table(found.users.table, folder / USERS / name, compression="zstd")
    (folder / _JSON).write_text(json.dumps(_document(findings), ensure_ascii=False, indent=2), encoding="utf-8")
    (folder / _PAGE).write_text(page(findings), encoding="utf-8")


def _arm(line: Line) -> dict[str, str]:
    return {"experiment": line.experiment, "arm": line.arm}


def _document(findings: Findings) -> dict[str, Any]:
    return {
        **_overview(findings),
        "by": {name: [line.as_json() for line in lines] for name, lines in findings.lines.items() if name != ALL},
    }


def _overview(findings: Findings) -> dict[str, Any]:
    """What a report says in short."""
    question = findings.question
    return {
        "from": question.start.isoformat(),
        "to": question.end.isoformat(),
        "window_seconds": question.window_seconds,
        "written_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "all": next((line.as_json() for line in findings.lines[ALL]), None),
        "events": findings.events,
        "not_exposed": list(findings.not_exposed),
        "experiments": [_experiment(found) for found in findings.experiments],
    }


def _experiment(found: Analysed) -> dict[str, Any]:
    return {
        "experiment": found.users.experiment,
        "is_planned": found.is_planned,
        "shares": dict(found.shares),
        "has_equal_shares": found.has_equal_shares,
        "problem": found.problem,
        "answers_without_user": found.users.answers_without_user,
        "result": None if found.result is None else found.result.as_json(),
    }


def _swap(staging: Path, output: Path) -> None:
    """Puts a finished report in the place of an earlier one."""
    earlier = output.with_name(f".{output.name}.earlier")
    shutil.rmtree(earlier, ignore_errors=True)
    if output.exists():
        output.rename(earlier)
    staging.rename(output)
    shutil.rmtree(earlier, ignore_errors=True)
