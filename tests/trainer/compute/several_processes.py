"""Program that test_distributed runs in one process and under torchrun: process 0 writes the results to files."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from tests.trainer.training.fitting import CPU, fit_ring, ring_config
from trainer.compute import distributed
from trainer.config.train_config import TextConfig
from trainer.features.text import embed_texts

TEXTS = [f"a red bicycle with {count} gears" + " and a bell" * (count % 7) for count in range(60)] + ["", "one"]


def main(folder: Path) -> None:
    """Writes fit.npz (metrics, loss and weights) and embeddings.npy below the folder."""
    with distributed.process_group(CPU):
        # Without dropout, a step of two processes equals the step of a single process on the whole batch.
        config = ring_config(
            towers__dropout="0", towers__item_dropout="0", towers__item_id_dropout="0", fit__loss="full"
        )
        fitted = fit_ring(config, num_epochs=3, checkpoint_path=folder / "checkpoint.pt")
        embeddings = embed_texts(TEXTS, TextConfig(batch_size=8), cache_dir=folder / "cache", device=CPU)
        everywhere = distributed.gather([fitted.best_epoch, len(fitted.epochs), float(embeddings.sum())])
        # More processes than batches: a process has nothing to encode.
        embed_texts(["two"], TextConfig(batch_size=8), cache_dir=folder / "cache", device=CPU)
        if distributed.rank() == 0:
            weights = {name: weight.numpy() for name, weight in fitted.model.state_dict().items()}
            metrics = [[report.loss, *report.metrics.values()] for report in fitted.epochs]
            np.savez(folder / "fit.npz", metrics=metrics, everywhere=everywhere, **weights)
            np.save(folder / "embeddings.npy", embeddings)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
