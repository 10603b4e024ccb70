"""Splits of the interactions into train, validation and test by three protocols, the same on every machine.

| kind           | test                         | validation      | known in the test          |
| -------------- | ---------------------------- | --------------- | -------------------------- |
| leave-last-out | each user's last interaction | the one before  | everything before the last |
| random         | 10 % of all interactions     | 10 %            | train and validation, 90 % |
| time           | the newest 10 %              | the 10 % before | everything before the cut  |

In validation, only the train part is known. Each interaction has the code of its part.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from trainer.core.errors import ConfigError, DataError
from trainer.dataset.dataset import Dataset
from trainer.dataset.eval_split import EvalSplit, leave_last_out_split

SplitKind = Literal["leave-last-out", "random", "time"]
SPLIT_KINDS: Final[tuple[SplitKind, ...]] = get_args(SplitKind)

PART_NAMES: Final = ("train", "validation", "test")
"""Names of the parts; a code is an index of this tuple."""
TRAIN, VALIDATION, TEST = range(3)

Codes = npt.NDArray[np.uint8]
"""(events,) uint8, the part of each interaction, in the order of the data set."""

_SHARES: Final = (8, 1, 1)
"""Tenths of the interactions in each part of the random split and of the split in time."""


@dataclass(frozen=True, kw_only=True)
class Splits:
    """A split of a data set."""

    kind: SplitKind
    seed: int
    """Seed of the random split; 0 for the other kinds, which need none."""
    codes: Codes
    fingerprint: str
    """SHA-256 over kind, seed, and the part of every (user, item): hex."""
    validation: EvalSplit
    test: EvalSplit


def draw_splits(dataset: Dataset, kind: SplitKind, *, seed: int = 0) -> Splits:
    """Splits a data set.

    Raises ConfigError for an unknown kind, and DataError if the data does not allow it: a split in time without times,
    or an empty part.
    """
    match kind:
        case "leave-last-out":
            codes, seed = _last_codes(dataset), 0
        case "random":
            codes = _random_codes(dataset, seed)
        case "time":
            codes, seed = _time_codes(dataset.event_times), 0
        case _:
            raise ConfigError(f"split {kind!r}: must be one of {', '.join(SPLIT_KINDS)}")
    return _splits_of_codes(dataset, kind, seed, codes)


def _splits_of_codes(dataset: Dataset, kind: SplitKind, seed: int, codes: Codes) -> Splits:
    """The split with the part of each interaction in `codes`."""
    if kind == "leave-last-out":
        # Users with too short a history before the target are not evaluated, which the codes do not show.
        validation, test = leave_last_out_split(dataset, skip=1), leave_last_out_split(dataset, skip=0)
    else:
        validation = _split_of(dataset, codes, VALIDATION)
        test = _split_of(dataset, codes, TEST)
    return Splits(
        kind=kind,
        seed=seed,
        codes=codes,
        fingerprint=_fingerprint(dataset, kind, seed, codes),
        validation=validation,
        test=test,
    )


def _last_codes(dataset: Dataset) -> Codes:
    """A user's last interaction is in the test, the previous in validation; a single interaction is in train."""
    codes = np.full(len(dataset.item_rows), TRAIN, dtype=np.uint8)
    ends = dataset.offsets[1:][dataset.lengths >= 2]
    codes[ends - 1] = TEST
    codes[ends - 2] = VALIDATION
    return codes


def _random_codes(dataset: Dataset, seed: int) -> Codes:
    """Orders interactions by their MD5 with the seed, so neither row numbers nor the version of numpy matter."""
    user_ids, item_ids = dataset.user_ids, dataset.catalogue.item_ids
    digests = b"".join(
        # The length separates the user's id from the item's id.
        hashlib.md5(
            f"{seed}:{len(user_ids[user])}:{user_ids[user]}{item_ids[item]}".encode(), usedforsecurity=False
        ).digest()
        for user, item in zip(dataset.user_rows.tolist(), dataset.item_rows.tolist(), strict=True)
    )
    halves = np.frombuffer(digests, dtype=">u8").reshape(-1, 2)
    order = np.lexsort((halves[:, 1], halves[:, 0]))
    codes = np.empty(len(order), dtype=np.uint8)
    first, second = _cuts(len(order))
    codes[order[:first]] = TRAIN
    codes[order[first:second]] = VALIDATION
    codes[order[second:]] = TEST
    _check_parts("random", codes)
    return codes


def _time_codes(times: npt.NDArray[np.int64]) -> Codes:
    """Splits in order of time; interactions at the same time stay together, in the later part."""
    if not times.any():
        raise DataError(
            "a split in time needs times, but this data set has only the order of each user's interactions: "
            f"choose {' or '.join(kind for kind in SPLIT_KINDS if kind != 'time')}"
        )
    cuts = np.sort(times)[list(_cuts(len(times)))]
    codes = np.searchsorted(cuts, times, side="right").astype(np.uint8)
    _check_parts("time", codes)
    return codes


def _cuts(num_events: int) -> tuple[int, int]:
    """Numbers of interactions before the validation part and before the test part, in order."""
    train, validation, test = _SHARES
    total = train + validation + test
    return num_events * train // total, num_events * (train + validation) // total


def _check_parts(kind: SplitKind, codes: Codes) -> None:
    counts = np.bincount(codes, minlength=len(PART_NAMES))
    if not counts.all():
        empty = PART_NAMES[int(counts.argmin())]
        reason = "too many interactions have the same time" if kind == "time" else "there are too few"
        raise DataError(f"split {kind!r} of {len(codes)} interactions would leave nothing in {empty}: {reason}")


def _split_of(dataset: Dataset, codes: Codes, code: int) -> EvalSplit:
    targets = codes == code
    counts = np.bincount(dataset.user_rows[targets], minlength=len(dataset.user_ids))
    users = np.flatnonzero(counts)
    return EvalSplit(
        name=PART_NAMES[code],
        known=dataset.subset(codes < code),
        users=users,
        target_offsets=np.concatenate([[0], np.cumsum(counts[users])]),
        target_rows=dataset.item_rows[targets],
        target_ratings=dataset.ratings[targets],
    )


def _fingerprint(dataset: Dataset, kind: SplitKind, seed: int, codes: Codes) -> str:
    digest = hashlib.sha256(f"{kind}\n{seed}\n".encode())
    for ids in (dataset.user_ids, dataset.catalogue.item_ids):
        digest.update("".join(f"{len(external_id)}:{external_id}" for external_id in ids).encode())
    for array, dtype in ((dataset.offsets, "<i8"), (dataset.item_rows, "<i8"), (codes, "u1")):
        digest.update(np.ascontiguousarray(array, dtype=dtype).tobytes())
    return digest.hexdigest()
