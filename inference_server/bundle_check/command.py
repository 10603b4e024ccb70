"""`check`: verifies a bundle and, on request, answers held-out users with it, beside another bundle or alone.

People get a table, programs JSON. The trainer's gate runs it with `--output`; the supervisor runs it without held-out
users (see `child_process`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from inference_server.bundle_check.golden_queries import check_bundle, describe
from inference_server.bundle_check.held_out_users import ask_held_out_users, with_golden_queries
from inference_server.bundle_check.report import CheckReport
from inference_server.core.errors import BundleRefused, RefusalKind, SettingsError
from inference_server.model.serving_model import ServingModel, open_model
from inference_server.policy.policy_file import PolicyFile
from inference_server.request.policy_choices import policy_choices
from tandem.contract.errors import BundleCorrupt, BundleError
from tandem.contract.held_out_users import HeldOutUser, read_held_out_users
from tandem.contract.manifest import MANIFEST
from tandem.contract.numbers import finite_json
from tandem.contract.served import (
    Refused,
    Served,
    ServedBundle,
    ndcg,
    recall,
    reciprocal_rank,
    refused_to_dict,
    served_to_dict,
)
from tandem.contract.whole_files import write_whole

_LABEL_WIDTH: Final = 32
_COLUMN_WIDTH: Final = 34


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """The options of the command line."""

    directory: Path
    previous: Path | None = None
    """Bundle whose recommendations are compared with this one's."""
    min_overlap: float = 0.0
    held_out: Path | None = None
    """File of held-out users; None with `against`: the held-out users in the bundle."""
    against: Path | None = None
    """Bundle that answers the same users for comparison."""
    num_shown: int = 10
    policies_file: Path | None = None
    json_output: bool = False
    """Whether one line of JSON is printed instead of lines for people."""
    output: Path | None = None
    """File to which the JSON is written too."""


def run_check(options: CheckOptions) -> int:
    """Checks the bundle, prints and writes the result, and returns the exit status. Raises SettingsError for users that
    cannot be read, and for a folder to compare with that holds no bundle."""
    for option, folder in (("--previous", options.previous), ("--against", options.against)):
        if folder is not None and not (folder / MANIFEST).is_file():
            raise SettingsError(f"{option} {folder}: holds no bundle: there is no {MANIFEST}")
    users = None if options.held_out is None else _users_of(options.held_out)
    served = None
    try:
        report = check_bundle(options.directory, previous=options.previous, min_overlap=options.min_overlap)
        if users is not None or options.against is not None:
            served = _served(options, report, users)
    except (SettingsError, KeyboardInterrupt):
        raise
    except Exception as error:
        refused = _refusal(error)
        status, text = 1, f"refused: {refused}"
        result = refused_to_dict(Refused(refused.reason_kind, refused.reason))
    else:
        status, text = 0, describe(report) + ("" if served is None else f"\n{served_text(served)}")
        result = asdict(report) | ({} if served is None else served_to_dict(served))
    if options.output is not None:
        write_whole(options.output, finite_json(result) + "\n")
    print(finite_json(result) if options.json_output else text)
    return status


def _refusal(error: Exception) -> BundleRefused:
    if isinstance(error, BundleRefused):
        return error
    if isinstance(error, MemoryError):
        limit = "it needs more memory than TANDEM_BUNDLE_CHECK_MEMORY_MB allows"
        return BundleRefused(RefusalKind.CHECK_FAILED, f"{limit}: {error}")
    # Whoever made the bundle decides what an engine or a library meets in it.
    return BundleRefused(RefusalKind.CHECK_FAILED, f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")


def served_text(served: Served) -> str:
    """The result as a table for people."""
    bundles = [served.candidate, *([served.against] if served.against else [])]
    k = served.num_shown
    rows: list[tuple[str, list[str]]] = [
        ("", [bundle.model_version for bundle in bundles]),
        (f"ndcg@{k}", [f"{ndcg(bundle.ranks).mean():.4f}" for bundle in bundles]),
        (f"recall@{k}", [f"{recall(bundle.ranks).mean():.4f}" for bundle in bundles]),
        (f"mrr@{k}", [f"{reciprocal_rank(bundle.ranks).mean():.4f}" for bundle in bundles]),
        (f"ndcg@{k} of popularity", [f"{ndcg(bundle.popularity_ranks).mean():.4f}" for bundle in bundles]),
        ("coverage", [_coverage(bundle) for bundle in bundles]),
        ("novelty, bits", [f"{bundle.novelty_bits:.2f}" for bundle in bundles]),
        ("ms to an answer, p50 p90 p99", [_latency(bundle) for bundle in bundles]),
        ("degraded answers", [_counts(bundle.degraded_answers) for bundle in bundles]),
        ("answers by source", [_counts(bundle.answers_by_source) for bundle in bundles]),
    ]
    title = f"{served.num_users} held-out users, {k} items each, as served:"
    lines = [
        f"{label:<{_LABEL_WIDTH}}{''.join(f'{cell:<{_COLUMN_WIDTH}}' for cell in cells)}".rstrip()
        for label, cells in rows
    ]
    problem = [f"not compared: {served.against_problem}"] if served.against_problem else []
    return "\n".join([title, *lines, *problem])


def _users_of(path: Path) -> Sequence[HeldOutUser]:
    try:
        users = read_held_out_users(path)
    except OSError as error:
        raise SettingsError(f"--held-out {path}: {error.strerror}") from error
    except BundleCorrupt as error:
        raise SettingsError(f"--held-out {path}: {error}") from error
    if not users:
        raise SettingsError(f"--held-out {path}: holds no user")
    return users


def _served(options: CheckOptions, report: CheckReport, users: Sequence[HeldOutUser] | None) -> Served:
    import uvloop

    # `check_bundle` has verified the checksums already.
    model = open_model(options.directory, verify_checksums=False)
    if users is None:
        users = model.bundle.held_out_users
        if not users:
            raise SettingsError(f"{options.directory} holds no held-out user: name a file with --held-out")
    against, problem = _opened_beside(options.against)
    models = [model, *([against] if against is not None else [])]
    asking = ask_held_out_users(
        models, users, num_shown=options.num_shown, policies=PolicyFile(options.policies_file, policy_choices())
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        candidate, *compared = runner.run(asking)
    return Served(
        num_shown=options.num_shown,
        candidate=with_golden_queries(candidate, report),
        against=compared[0] if compared else None,
        against_problem=problem,
    )


def _opened_beside(directory: Path | None) -> tuple[ServingModel | None, str]:
    """The other bundle, or why it cannot be opened, which does not refuse the bundle that is checked."""
    if directory is None:
        return None, ""
    try:
        return open_model(directory), ""
    except BundleError as error:
        return None, f"{directory}: {error}"


def _coverage(bundle: ServedBundle) -> str:
    return f"{bundle.coverage:.4f} ({bundle.num_recommended_items} of {bundle.num_items} items)"


def _latency(bundle: ServedBundle) -> str:
    return " ".join(f"{milliseconds:.2f}" for milliseconds in bundle.latency_ms.values())


def _counts(by_name: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in by_name.items()) or "none"
