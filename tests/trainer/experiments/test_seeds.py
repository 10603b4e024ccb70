import json

import numpy as np
import pytest

from tests.trainer.known_answers import Table
from tests.trainer.small_dataset import dataset_of
from trainer.dataset.eval_split import leave_last_out_split
from trainer.evaluation.comparison import compare
from trainer.experiments.seeds import SeedEvaluations, SeedRun, SeedsResult, Spread
from trainer.experiments.test_set_metrics import SERVED
from trainer.scoring.full_evaluation import evaluate
from trainer.scoring.sampled_evaluation import evaluate_sampled

DATASET = dataset_of([[user % 40, (7 * user + 3) % 40, (user * user + 20) % 40] for user in range(90)], num_items=40)
PART = leave_last_out_split(DATASET, skip=0)


def _result(num_seeds: int) -> SeedsResult:
    tables = [Table(np.random.default_rng(seed).normal(size=(90, 40))) for seed in range(num_seeds)]
    full = [evaluate(PART, table, name=SERVED) for table in tables]
    sampled = [evaluate_sampled(PART, table, DATASET, name=SERVED) for table in tables]
    return SeedsResult(
        data="small",
        protocol="leave-last-out",
        description="The last.",
        runs=tuple(
            SeedRun(seed=seed, best_epoch=3, training_seconds=1.5, blend_weights={"content": None, "item_item": 0.5})
            for seed in range(num_seeds)
        ),
        questions={
            evaluations[0].protocol: SeedEvaluations(
                by_model={SERVED: evaluations}, comparison=compare(evaluations[:1], baseline=SERVED)
            )
            for evaluations in (full, sampled)
        },
    )


def test_mean_and_spread_of_every_metric() -> None:
    result = _result(3)
    values = result.metrics["ndcg@20"]
    assert len(set(values)) == 3
    read = json.loads(result.to_json())
    served = read["questions"]["full ranking"]["seeds"][SERVED]
    assert served["ndcg@20"]["mean"] == pytest.approx(np.mean(values))
    assert served["ndcg@20"]["std"] == pytest.approx(np.std(values, ddof=1))
    assert {"coverage@10", "gini@10", "novelty@10"} <= served.keys()
    assert len(read["questions"]["1+99"]["seeds"][SERVED]["hr@5"]["values"]) == 3


def test_text_names_both_protocols() -> None:
    text = _result(2).to_text()
    assert text.index("## full ranking") < text.index("## 1+99")
    sampled = text.split("## 1+99")[1]
    assert sampled.count("ndcg@10") == sampled.count("1+99: ndcg@10")
    assert "| 0 | 3 | 2 | - | 0.5 |" in text


def test_one_seed_has_no_spread() -> None:
    assert str(Spread.of([0.25])) == "0.2500 ± 0.0000"
