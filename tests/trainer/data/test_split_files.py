"""Splits by every protocol: the parts, their reproducibility, and the files on disk."""

import dataclasses
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.trainer.data.conftest import csv_text, table_rows
from tests.trainer.small_dataset import dataset_of
from trainer.core.errors import ConfigError, DataError
from trainer.data.config import load_data_config
from trainer.data.prepare import PreparedData, prepare
from trainer.data.split_files import write_split
from trainer.dataset.dataset import Dataset, load_dataset
from trainer.dataset.eval_split import EvalSplit
from trainer.dataset.splits import PART_NAMES, SPLIT_KINDS, TEST, TRAIN, VALIDATION, SplitKind, draw_splits

CONFIG = """
name = "small"
format = "table"
[interactions]
path = "rows.csv"
user = "u"
item = "i"
timestamp = "t"
"""
PINNED_CODES = [1, 0, 0, 0, 0, 0, 2, 0, 0, 0]
PINNED_FINGERPRINT = "33a764ed3bbabaec565bb76b65c9ade32ea810161bd4356ca5ca03992d3f015f"


def random_dataset(*, num_users: int = 40, num_items: int = 30) -> Dataset:
    generator = np.random.default_rng(3)
    histories = [generator.permutation(num_items)[: generator.integers(1, 15)].tolist() for _ in range(num_users)]
    dataset = dataset_of(histories, num_items=num_items)
    return dataclasses.replace(dataset, event_times=np.arange(1, len(dataset.item_rows) + 1, dtype=np.int64))


def pairs_of(split: EvalSplit) -> set[tuple[int, int]]:
    users = np.repeat(split.users, np.diff(split.target_offsets))
    return set(zip(users.tolist(), split.target_rows.tolist(), strict=True))


def known_pairs(dataset: Dataset) -> set[tuple[int, int]]:
    return set(zip(dataset.user_rows.tolist(), dataset.item_rows.tolist(), strict=True))


@pytest.mark.parametrize("kind", SPLIT_KINDS)
def test_parts_are_disjoint_and_earlier_parts_are_known(kind: SplitKind):
    dataset = random_dataset()
    splits = draw_splits(dataset, kind)
    pairs = list(zip(dataset.user_rows.tolist(), dataset.item_rows.tolist(), strict=True))
    in_part = [{pair for pair, code in zip(pairs, splits.codes, strict=True) if code == split} for split in range(3)]
    assert (splits.validation.name, splits.test.name) == PART_NAMES[1:]
    assert known_pairs(splits.validation.known) == in_part[TRAIN]
    assert known_pairs(splits.test.known) == in_part[TRAIN] | in_part[VALIDATION]
    assert pairs_of(splits.test) == in_part[TEST]
    assert pairs_of(splits.validation) <= in_part[VALIDATION]
    if kind != "leave-last-out":
        assert pairs_of(splits.validation) == in_part[VALIDATION]
        num_events = len(pairs)
        assert [len(split) for split in in_part] == [
            num_events * 8 // 10,
            num_events * 9 // 10 - num_events * 8 // 10,
            num_events - num_events * 9 // 10,
        ]


def test_leave_last_out_of_short_histories():
    splits = draw_splits(dataset_of([[0], [1, 2], [3, 4, 5]], num_items=6), "leave-last-out")
    assert splits.codes.tolist() == [TRAIN, VALIDATION, TEST, TRAIN, VALIDATION, TEST]
    assert splits.validation.users.tolist() == [2], "the user of two interactions has no history before the first"
    assert splits.test.users.tolist() == [1, 2]


def test_the_random_split_does_not_depend_on_the_order_of_rows():
    dataset = random_dataset()
    turned = dataset_of(
        [
            dataset.item_rows[start:end].tolist()[::-1]
            for start, end in zip(dataset.offsets[:-1], dataset.offsets[1:], strict=True)
        ],
        num_items=30,
    )
    assert pairs_of(draw_splits(dataset, "random").test) == pairs_of(draw_splits(turned, "random").test)


def test_the_random_split_depends_on_its_seed():
    dataset = random_dataset()
    first, again, other = (draw_splits(dataset, "random", seed=seed) for seed in (0, 0, 1))
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert pairs_of(first.test) != pairs_of(other.test)
    # Pinned: a published split must not change with the version of any library.
    small = draw_splits(dataset_of([[0, 1, 2, 3], [0, 1, 2, 3], [1, 2]], num_items=4), "random")
    assert small.codes.tolist() == PINNED_CODES
    assert small.fingerprint == PINNED_FINGERPRINT


def test_the_split_in_time_keeps_equal_times_together():
    dataset = dataset_of([[row] for row in range(10)], num_items=10)
    times = np.array([1, 1, 1, 1, 1, 1, 1, 2, 2, 3], dtype=np.int64)
    codes = draw_splits(dataclasses.replace(dataset, event_times=times), "time").codes
    assert codes.tolist() == [TRAIN] * 7 + [VALIDATION] * 2 + [TEST]


def test_the_split_in_time_tests_users_without_a_history():
    dataset = dataset_of([[row] for row in range(10)], num_items=10)
    splits = draw_splits(dataclasses.replace(dataset, event_times=np.arange(1, 11, dtype=np.int64)), "time")
    assert splits.test.users.tolist() == [9]
    assert splits.test.known.lengths.tolist() == [1] * 9 + [0]


def test_data_that_cannot_be_split_is_an_error_with_the_reason():
    dataset = random_dataset()
    without_times = dataclasses.replace(dataset, event_times=np.zeros(len(dataset.item_rows), dtype=np.int64))
    with pytest.raises(DataError, match=r"has only the order .*: choose leave-last-out or random"):
        draw_splits(without_times, "time")
    one_time = dataclasses.replace(dataset, event_times=np.full(len(dataset.item_rows), 5, dtype=np.int64))
    with pytest.raises(DataError, match="nothing in train: too many interactions have the same time"):
        draw_splits(one_time, "time")
    with pytest.raises(DataError, match="nothing in validation: there are too few"):
        draw_splits(dataset_of([[0, 1]], num_items=2), "random")
    with pytest.raises(ConfigError, match="must be one of leave-last-out, random, time"):
        draw_splits(dataset, "by-moon")  # type: ignore[arg-type]


@pytest.fixture
def prepared(write, tmp_path: Path) -> PreparedData:
    generator = np.random.default_rng(1)
    rows = [
        {"u": f"u{user}", "i": f"i{item}", "t": 1_000_000 + int(generator.integers(100_000))}
        for user in range(10)
        for item in generator.permutation(12)[:6]
    ]
    write("rows.csv", csv_text(rows))
    return prepare(load_data_config(str(write("data.toml", CONFIG)), {}), tmp_path / "cache")


class TestFiles:
    @pytest.mark.parametrize("kind", SPLIT_KINDS)
    def test_they_hold_the_part_of_every_interaction_in_the_order_of_the_interactions(
        self, prepared: PreparedData, kind: SplitKind
    ):
        dataset = load_dataset(prepared.directory)
        splits = draw_splits(dataset, kind)
        path = write_split(splits, dataset, prepared)
        rows = pq.read_table(path).to_pylist()
        assert [PART_NAMES.index(row["part"]) for row in rows] == splits.codes.tolist()
        interactions = table_rows(prepared, "interactions")
        assert [(row["user_id"], row["item_id"]) for row in rows] == [
            (row["user_id"], row["item_id"]) for row in interactions
        ]
        description = json.loads(path.with_suffix(".json").read_text())
        assert (description["kind"], description["seed"]) == (kind, splits.seed)
        assert description["counts"] == Counter(row["part"] for row in rows)
        assert description["fingerprint"] == splits.fingerprint
        assert description["data_fingerprint"] == prepared.fingerprint
        assert sorted(file.name for file in path.parent.iterdir()) == sorted({path.name, f"{path.stem}.json"})

    def test_every_seed_has_its_own_file(self, prepared: PreparedData):
        dataset = load_dataset(prepared.directory)
        paths = [write_split(draw_splits(dataset, "random", seed=seed), dataset, prepared) for seed in (0, 7)]
        assert [json.loads(path.with_suffix(".json").read_text())["seed"] for path in paths] == [0, 7]
