import json
from dataclasses import replace

import numpy as np
import pytest

from tests.trainer.known_answers import Table, split_of
from tests.trainer.small_dataset import dataset_of
from trainer.core.errors import ConfigError, DataError
from trainer.dataset.eval_split import EvalSplit, leave_last_out_split
from trainer.evaluation.comparison import TABLE_METRICS, compare
from trainer.evaluation.evaluation import Evaluation
from trainer.results.markdown import comparison_text
from trainer.results.saved_evaluations import evaluation_directories, load_evaluation, save_evaluation
from trainer.scoring.full_evaluation import evaluate
from trainer.scoring.sampled_evaluation import evaluate_sampled

NUM_ITEMS, NUM_USERS = 200, 300
DATASET = dataset_of(
    [np.random.default_rng(user).permutation(NUM_ITEMS)[: 2 + user % 70].tolist() for user in range(NUM_USERS)],
    num_items=NUM_ITEMS,
)
PART = leave_last_out_split(DATASET, skip=0)
NOISE = np.random.default_rng(1).normal(size=(NUM_USERS, NUM_ITEMS)).astype(np.float32)
ITEM_CONTENT = np.random.default_rng(2).normal(size=(NUM_ITEMS, 4)).astype(np.float16)


def _helped(split: EvalSplit, amount: float) -> Table:
    """Noise, with `amount` added to the scores of the targets."""
    table = NOISE.copy()
    table[split.users, split.target_rows] += amount
    return Table(table)


@pytest.fixture(scope="module")
def evaluations() -> list[Evaluation]:
    scorers = {"noise": Table(NOISE), "noise again": Table(NOISE), "better": _helped(PART, 2.0)}
    return [evaluate(PART, scorer, name=name, content_vectors=ITEM_CONTENT) for name, scorer in scorers.items()]


def test_equal_models_do_not_differ_and_better_ones_do(evaluations: list[Evaluation]) -> None:
    comparison = compare(evaluations, baseline="noise")
    assert list(comparison.differences) == ["noise again", "better"]
    same, better = comparison.differences.values()
    assert {(value.interval.low, value.interval.high, value.p_value) for value in same.values()} == {(0.0, 0.0, 1.0)}
    for metric in TABLE_METRICS:
        assert better[metric].interval.low > 0
        assert better[metric].p_value < 0.01
        means = [evaluation.means()[metric] for evaluation in evaluations]
        assert comparison.intervals["better"][metric].mean == pytest.approx(means[2])
        assert better[metric].interval.mean == pytest.approx(means[2] - means[0])
    assert comparison.intervals["noise"]["ndcg@50"].low > 0
    assert set(comparison.segments["better"]) == {
        "cold users", "warm users", "heavy users", "head items", "tail items"
    }  # fmt: skip


def test_tables_and_json(evaluations: list[Evaluation]) -> None:
    comparison = compare(evaluations, baseline="noise")
    text = comparison_text(comparison)
    assert text.startswith("full ranking, test, 300 users, 300 targets.")
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert [len(table) - 2 for table in tables] == [3, 2, 3, 3]
    assert all(line.count("|") == table[0].count("|") for table in tables for line in table)
    assert "novelty@10" in tables[2][0]
    assert "heavy users (" in tables[3][0]
    read = json.loads(json.dumps(comparison.to_dict()))
    assert read["models"]["better"]["differences"]["ndcg@10"]["interval"]["low"] > 0
    assert read["models"]["noise"]["totals"]["coverage@10"] > 0
    assert (read["protocol"], read["num_users"]) == ("full ranking", 300)


def test_a_sampled_figure_never_stands_without_its_label() -> None:
    sampled = [
        evaluate_sampled(PART, scorer, DATASET, name=name)
        for name, scorer in (("noise", Table(NOISE)), ("better", _helped(PART, 2.0)))
    ]
    comparison = compare(sampled, baseline="noise")
    text = comparison_text(comparison)
    assert text.count("ndcg@10") == text.count("1+99: ndcg@10") == 3
    assert comparison.to_dict()["protocol"] == "1+99"
    with pytest.raises(DataError, match=r"full ranking, 'better' is 1\+99"):
        compare([evaluate(PART, Table(NOISE), name="noise"), sampled[1]], baseline="noise")


def test_evaluations_that_cannot_be_compared_are_refused(evaluations: list[Evaluation]) -> None:
    with pytest.raises(ConfigError, match="'best' was not evaluated; there are: noise, noise again, better"):
        compare(evaluations, baseline="best")
    with pytest.raises(DataError, match="have the same name: noise"):
        compare([evaluations[0], evaluations[0]], baseline="noise")
    validation = leave_last_out_split(DATASET, skip=1)
    other = evaluate(validation, Table(NOISE), name="other")
    with pytest.raises(DataError, match="different questions"):
        compare([evaluations[0], other], baseline="noise")
    nobody = evaluate(split_of([[0]], {}, num_items=2), Table([[0, 0]]), name="nobody")
    with pytest.raises(DataError, match="no user"):
        compare([nobody], baseline="nobody")


def test_saved_evaluations_are_compared_like_fresh_ones(evaluations: list[Evaluation], tmp_path) -> None:
    for number, evaluation in enumerate(evaluations):
        save_evaluation(evaluation, tmp_path / f"run-{number}" / "evaluation")
    found = evaluation_directories(tmp_path)
    assert [directory.parent.name for directory in found] == ["run-0", "run-1", "run-2"]
    loaded = [load_evaluation(directory) for directory in found]
    assert [evaluation.means() for evaluation in loaded] == [evaluation.means() for evaluation in evaluations]
    fresh = compare(evaluations, baseline="noise")
    assert compare(loaded, baseline="noise").to_dict() == fresh.to_dict()


def test_files_that_hold_no_evaluation_are_named(evaluations: list[Evaluation], tmp_path) -> None:
    with pytest.raises(DataError, match="no evaluation can be read here"):
        load_evaluation(tmp_path)
    save_evaluation(evaluations[0], tmp_path)
    described = json.loads((tmp_path / "evaluation.json").read_text())
    (tmp_path / "evaluation.json").write_text(json.dumps({**described, "format": 2}))
    with pytest.raises(DataError, match="format 2, this program reads format 1"):
        load_evaluation(tmp_path)
    save_evaluation(evaluations[0], tmp_path)
    (tmp_path / "evaluation.npz").write_bytes(b"damaged")
    with pytest.raises(DataError, match="no evaluation can be read here"):
        load_evaluation(tmp_path)


def test_list_metrics_are_compared_if_all_evaluations_have_them(evaluations: list[Evaluation]) -> None:
    without = replace(evaluations[0], list_metrics={}, name="without")
    assert "diversity@10" in compare(evaluations, baseline="noise").intervals["better"]
    assert "diversity@10" not in compare([*evaluations, without], baseline="noise").intervals["better"]
