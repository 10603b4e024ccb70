"""Reads logged answers and what they earned: the archives of impressions and events that feature_sync keeps.

An answer that cannot be judged is left out, and counted by reason. None of the reasons depends on what the answer
earned, so the answers that are kept stand for themselves.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np

from tandem.contract import names
from trainer.dataset.parquet import read_table
from trainer.off_policy.weighing import Answers

# Why answers are left out; each completes "answers ...".
REPEATED: Final = "logged twice"
OTHER_SCENARIO: Final = "of another scenario"
LATER_PAGE: Final = "on a later page"
ANONYMOUS: Final = "to anonymous visitors"
DEGRADED: Final = "degraded"
EMPTY: Final = "without items"
NOT_EXPLORED: Final = "without exploration"
BAD_PROPENSITY: Final = "with a propensity that is 0, negative, above 1 or no number"
BAD_RANKS: Final = "whose candidates, ranks and propensities contradict each other"
NOT_DRAWN: Final = "of users above the limit of --max-answers"

# What events are not counted; each completes "events ...".
WITHOUT_ANSWER: Final = "that name no answer"
OTHER_ANSWER: Final = "that name an answer that is not judged or not in the log"
NOT_SHOWN: Final = "on an item that their answer does not show at a judged position"
OTHER_USER: Final = "of another user than their answer"
BAD_VALUE: Final = "with a value that is negative or no number"

_ANSWER_COLUMNS: Final = (
    *(names.REQUEST_ID, names.TIMESTAMP, names.USER_ID, names.SCENARIO, names.CONTEXT, names.MODEL_VERSION),
    *(names.DEGRADED_REASONS, names.FIRST_POSITION, names.ITEM_IDS, names.PROPENSITIES),
    *(names.NUM_CANDIDATES, names.RANKS),
)
_EVENT_COLUMNS: Final = (names.REQUEST_ID, names.USER_ID, names.ITEM_ID, names.EVENT_TYPE, names.VALUE)
_DWELL: Final = "dwell"
_MILLISECONDS: Final = 1000.0
_TOLERANCE: Final = 1e-4
"""Relative: propensities are float32."""


@dataclass(frozen=True, slots=True)
class LoggedAnswer:
    """One answer that can be judged."""

    request_id: str
    user_id: str
    timestamp: int
    """Microseconds since 1970."""
    context: Mapping[str, str]
    model_version: str
    item_ids: Sequence[str]
    ranks: Sequence[int]
    num_candidates: int
    exploration: float
    """Above 0."""


@dataclass(kw_only=True)
class Log:
    """The answers that can be judged, and what was left out."""

    answers: list[LoggedAnswer] = field(default_factory=list)
    num_read: int = 0
    """Answers in the files."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Answers by reason."""
    missing_days: list[str] = field(default_factory=list)
    """Days without a file between the first and the last, YYYY-MM-DD."""


@dataclass(frozen=True, kw_only=True)
class Rewards:
    """What the slots of the answers earned, in their order."""

    values: Sequence[Sequence[float]]
    """For each answer, for each of its positions."""
    num_events: int
    """Events that were counted."""
    left_out: Counter[str]
    """Events of the type by reason."""


def read_log(files: Sequence[Path], *, scenario: str, num_positions: int, max_answers: int, seed: int = 0) -> Log:
    """Reads impressions. Of more than `max_answers` judgeable ones, those of users drawn with a fixed seed are kept.

    Only the first `num_positions` positions of an answer are kept. Raises DataError for a file that cannot be read.
    """
    log = Log(missing_days=missing_days(files))
    known: set[str] = set()
    for path in files:
        for row in _rows(path, _ANSWER_COLUMNS):
            log.num_read += 1
            answer = _judgeable(row, known, scenario, num_positions)
            if isinstance(answer, str):
                log.left_out[answer] += 1
            else:
                log.answers.append(answer)
    _draw_users(log, max_answers, seed)
    return log


def read_rewards(files: Sequence[Path], answers: Sequence[LoggedAnswer], event_type: str) -> Rewards:
    """What the answers earned: for each item 1 if at least one event of this type names answer and item, or for `dwell`
    the seconds of all such events. Raises DataError for a file that cannot be read."""
    values = [[0.0] * len(answer.item_ids) for answer in answers]
    index_of = {answer.request_id: index for index, answer in enumerate(answers)}
    left_out: Counter[str] = Counter()
    num_events = 0
    for path in files:
        for row in _rows(path, _EVENT_COLUMNS):
            if row[names.EVENT_TYPE] != event_type:
                continue
            index = index_of.get(row[names.REQUEST_ID] or "")
            if index is None:
                left_out[OTHER_ANSWER if row[names.REQUEST_ID] else WITHOUT_ANSWER] += 1
                continue
            answer, value = answers[index], row[names.VALUE]
            if row[names.USER_ID] != answer.user_id:
                left_out[OTHER_USER] += 1
            elif row[names.ITEM_ID] not in answer.item_ids:
                left_out[NOT_SHOWN] += 1
            elif event_type == _DWELL and not (value is not None and 0.0 <= value < math.inf):
                left_out[BAD_VALUE] += 1
            else:
                num_events += 1
                position = answer.item_ids.index(row[names.ITEM_ID])
                values[index][position] = (
                    values[index][position] + value / _MILLISECONDS if event_type == _DWELL else 1.0
                )
    return Rewards(values=values, num_events=num_events, left_out=left_out)


def as_arrays(answers: Sequence[LoggedAnswer], rewards: Rewards, item_ids: Sequence[str]) -> Answers:
    """The answers as arrays. Items are numbered as in `item_ids`, then those that only the log names."""
    index_of = {item_id: index for index, item_id in enumerate(item_ids)}
    items = [index_of.setdefault(item_id, len(index_of)) for answer in answers for item_id in answer.item_ids]
    user_of: dict[str, int] = {}
    counts = np.array([len(answer.item_ids) for answer in answers], dtype=np.int64)
    owners = np.repeat(np.arange(len(answers)), counts)
    return Answers(
        num_items=len(index_of),
        users=np.array([user_of.setdefault(answer.user_id, len(user_of)) for answer in answers], dtype=np.int64),
        num_candidates=np.array([answer.num_candidates for answer in answers], dtype=np.int64),
        exploration=np.array([answer.exploration for answer in answers], dtype=np.float64),
        slot_answers=owners,
        slot_positions=np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts),
        slot_items=np.array(items, dtype=np.int64),
        slot_ranks=np.array([rank for answer in answers for rank in answer.ranks], dtype=np.int64),
        rewards=np.array([value for values in rewards.values for value in values], dtype=np.float64),
    )


def missing_days(files: Sequence[Path]) -> list[str]:
    """Days without a file between the first and the last."""
    days = {date.fromisoformat(path.parent.name.removeprefix(names.DAY_PARTITION)) for path in files}
    if not days:
        return []
    first = min(days)
    between = (first + timedelta(days=number) for number in range((max(days) - first).days))
    return [day.isoformat() for day in between if day not in days]


def _rows(path: Path, columns: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    for batch in read_table(path, columns).to_batches():
        yield from batch.to_pylist()


def _judgeable(row: Mapping[str, Any], known: set[str], scenario: str, num_positions: int) -> LoggedAnswer | str:
    """The answer of a row, or why it is left out."""
    item_ids, propensities = row[names.ITEM_IDS] or [], row[names.PROPENSITIES] or []
    if row[names.REQUEST_ID] in known:
        return REPEATED
    known.add(row[names.REQUEST_ID])
    if row[names.SCENARIO] != scenario:
        return OTHER_SCENARIO
    if not row[names.USER_ID]:
        return ANONYMOUS
    if row[names.FIRST_POSITION]:
        return LATER_PAGE
    if row[names.DEGRADED_REASONS]:
        return DEGRADED
    if not item_ids:
        return EMPTY
    if not all(propensity is not None and 0.0 < propensity <= 1.0 for propensity in propensities):
        return BAD_PROPENSITY
    if not row[names.NUM_CANDIDATES] and set(propensities) <= {1.0}:
        return NOT_EXPLORED
    exploration = explored_share(row[names.NUM_CANDIDATES] or 0, row[names.RANKS] or [], propensities, len(item_ids))
    if exploration is None:
        return BAD_RANKS
    if exploration == 0.0:
        return NOT_EXPLORED
    return LoggedAnswer(
        request_id=row[names.REQUEST_ID],
        user_id=row[names.USER_ID],
        timestamp=row[names.TIMESTAMP],
        context=dict(row[names.CONTEXT] or []),
        model_version=row[names.MODEL_VERSION],
        item_ids=item_ids[:num_positions],
        ranks=row[names.RANKS][:num_positions],
        num_candidates=row[names.NUM_CANDIDATES],
        exploration=exploration,
    )


def explored_share(
    num_candidates: int, ranks: Sequence[int], propensities: Sequence[float], num_items: int
) -> float | None:
    """The share of positions that were explored, from the propensities of one answer; 0 if there was nothing to choose.

    None if `exploration.explore` makes no such answer.
    """
    if not len(ranks) == len(propensities) == num_items <= num_candidates or len(set(ranks)) < num_items:
        return None
    if min(ranks) < 0 or max(ranks) >= num_candidates:
        return None
    # Of every position the number of candidates that are left, and whether the best of them was shown.
    is_best = [rank == best for rank, best in zip(ranks, _best(ranks), strict=True)]
    left = list(zip(range(num_candidates, 0, -1), is_best, strict=False))
    shares = [
        (1.0 - propensity) / (1.0 - 1.0 / remaining) if best else propensity * remaining
        for (remaining, best), propensity in zip(left, propensities, strict=True)
        if remaining > 1
    ]
    if not shares:
        return 0.0
    # What was drawn tells the share to more digits.
    drawn = [share for share, best in zip(shares, is_best, strict=False) if not best]
    share = round((drawn or shares)[0], 6)
    expected = [share / remaining + (1.0 - share if best else 0.0) for remaining, best in left]
    agrees = all(math.isclose(*pair, rel_tol=_TOLERANCE) for pair in zip(propensities, expected, strict=True))
    return share if agrees and share <= 1.0 else None


def _best(ranks: Sequence[int]) -> Iterator[int]:
    """The best rank that is left before each position."""
    shown: set[int] = set()
    best = 0
    for rank in ranks:
        while best in shown:
            best += 1
        yield best
        shown.add(rank)


def _draw_users(log: Log, max_answers: int, seed: int) -> None:
    if len(log.answers) <= max_answers:
        return
    counts = Counter(answer.user_id for answer in log.answers)
    user_ids = list(counts)
    drawn: set[str] = set()
    num_answers = 0
    for index in np.random.default_rng(seed).permutation(len(user_ids)).tolist():
        num_answers += counts[user_ids[index]]
        if num_answers > max_answers:
            break
        drawn.add(user_ids[index])
    kept = [answer for answer in log.answers if answer.user_id in drawn]
    log.left_out[NOT_DRAWN] += len(log.answers) - len(kept)
    log.answers = kept
