"""Leave-last-out metrics of a configuration over several seeds: what the documentation's numbers come from."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from trainer.config import TrainConfig
from trainer.data.config import DataConfig
from trainer.data.prepare import prepare
from trainer.evaluation.metrics import bootstrap_mean, mean_metrics
from trainer.settings import Settings
from trainer.training.fit import unreported
from trainer.training.train import encode, train


@dataclass(frozen=True, kw_only=True)
class SeedsResult:
    """Test metrics of every seed; the baseline has no seed."""

    data: str
    num_users: int
    """Users that were evaluated."""
    seeds: tuple[int, ...]
    best_epochs: tuple[int, ...]
    training_seconds: tuple[float, ...]
    content_weights: tuple[float | None, ...]
    """Share of content in the blend that each seed's validation chose; None without content."""
    metrics: Mapping[str, tuple[float, ...]]
    """Per metric one mean over users for each seed, ranked as served."""
    two_tower: Mapping[str, tuple[float, ...]]
    """The same by the two towers alone."""
    intervals: Mapping[str, tuple[float, float]]
    """Per metric the 95 % bootstrap interval over users of the first seed."""
    popularity: Mapping[str, float]

    def to_json(self) -> str:
        """Everything, for a file."""
        return json.dumps(asdict(self), indent=2)

    def to_text(self) -> str:
        """A Markdown table."""
        lines = [
            f"{self.data}, leave-last-out, full ranking, {self.num_users} users, seeds {list(self.seeds)}, "
            f"best epochs {list(self.best_epochs)}, content weights {list(self.content_weights)}, "
            f"training seconds {[round(s) for s in self.training_seconds]}",
            "",
            "| metric | mean | standard deviation | 95 % interval over users, first seed | two towers | popularity |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        for name, values in self.metrics.items():
            low, high = self.intervals[name]
            spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
            lines.append(
                f"| {name} | {np.mean(values):.4f} | {spread:.4f} | {low:.4f} to {high:.4f} | "
                f"{np.mean(self.two_tower[name]):.4f} | {self.popularity[name]:.4f} |"
            )
        return "\n".join(lines)


def evaluate_seeds(data_config: DataConfig, config: TrainConfig, settings: Settings, *, num_seeds: int) -> SeedsResult:
    """Trains with seeds `fit.seed`, `fit.seed` + 1, ... and scores the test items once for each. Registers nothing."""
    encoded = encode(prepare(data_config, settings.data_dir, engine=settings.engine), config, settings)
    seeds = tuple(range(config.fit.seed, config.fit.seed + num_seeds))
    results, seconds = [], []
    for seed in seeds:
        started = time.monotonic()
        seeded = config.model_copy(update={"fit": config.fit.model_copy(update={"seed": seed})})
        results.append(train(encoded, seeded, on_epoch=unreported))
        seconds.append(time.monotonic() - started)
    means = [mean_metrics(result.test) for result in results]
    two_tower = [mean_metrics(result.test_two_tower) for result in results]
    intervals = {name: bootstrap_mean(values) for name, values in results[0].test.items()}
    return SeedsResult(
        data=data_config.name,
        num_users=len(next(iter(results[0].test.values()))),
        seeds=seeds,
        best_epochs=tuple(result.best_epoch for result in results),
        training_seconds=tuple(seconds),
        content_weights=tuple(result.content_weight for result in results),
        metrics={name: tuple(mean[name] for mean in means) for name in means[0]},
        two_tower={name: tuple(mean[name] for mean in two_tower) for name in two_tower[0]},
        intervals={name: (interval.low, interval.high) for name, interval in intervals.items()},
        popularity=mean_metrics(results[0].test_popularity),
    )
