import numpy as np
import pytest

from tandem.contract.vocabulary import MISSING_ROW
from tests.trainer.known_answers import Table, split_of
from tests.trainer.small_dataset import dataset_of
from trainer.dataset.eval_split import leave_last_out_split
from trainer.scoring.sampled_evaluation import NUM_SAMPLED_ITEMS, evaluate_sampled, sampled_items


def test_samples_are_uniform_over_unchosen_items() -> None:
    num_items = 150
    everything = list(range(num_items))  # of 160 items, no user chose the last ten
    dataset = dataset_of([[0, 7, 8, 149, 20]] * 2_000 + [everything], num_items=160)
    validation = leave_last_out_split(dataset, skip=1)  # item 20 is chosen later, so it is not a negative
    samples = sampled_items(validation, dataset)
    assert samples.shape == (2_001, NUM_SAMPLED_ITEMS)
    assert (samples[2_000] == MISSING_ROW).all()
    samples = samples[:2_000]
    assert all(len(set(row)) == NUM_SAMPLED_ITEMS for row in samples.tolist())
    times = np.bincount(samples.ravel(), minlength=num_items)
    assert len(times) == num_items
    chosen = [0, 7, 8, 20, 149]
    assert times[chosen].tolist() == [0] * 5
    unchosen = np.delete(times, chosen) / 2_000
    assert unchosen == pytest.approx(np.full(num_items - 5, NUM_SAMPLED_ITEMS / (num_items - 5)), abs=0.06)
    assert (samples == sampled_items(validation, dataset)[:2_000]).all()


def test_random_scores_have_the_hit_rate_of_chance() -> None:
    dataset = dataset_of([[user % 40, 40 + user % 160] for user in range(4_000)], num_items=200)
    split = leave_last_out_split(dataset, skip=0)
    scores = np.random.default_rng(0).normal(size=(4_000, 200))
    evaluation = evaluate_sampled(split, Table(scores), dataset, name="random")
    assert evaluation.means()["hr@10"] == pytest.approx(0.1, abs=0.02)
    tied = evaluate_sampled(split, Table(np.zeros((4_000, 200))), dataset, name="tied")
    assert tied.means()["hr@10"] == pytest.approx(0.1, abs=0.02)
    assert tied.ranks.max() == NUM_SAMPLED_ITEMS


def test_the_label_is_never_lost() -> None:
    dataset = dataset_of([[0, 1], [1, 2], [3]], num_items=4)
    split = leave_last_out_split(dataset, skip=0)
    evaluation = evaluate_sampled(split, Table([[0, 3, 5, 4], [9, 9, 5, 6], [0, 0, 0, 0]]), dataset, name="table")
    assert evaluation.protocol == "1+99"
    # With fewer than 99 unchosen items, all are sampled. Item 1 loses to items 2 and 3, item 2 to items 0 and 3.
    assert evaluation.ranks.tolist() == [2, 2]
    assert (sampled_items(split, dataset)[0, 2:] == MISSING_ROW).all()


def test_several_targets_are_refused() -> None:
    split = split_of([[0]], {0: [1, 2]}, num_items=4)
    with pytest.raises(ValueError, match="exactly one target"):
        evaluate_sampled(split, Table([[0, 0, 0, 0]]), split.known, name="table")
