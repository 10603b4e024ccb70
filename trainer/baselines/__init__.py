"""Methods without towers, which a served model has to beat, each behind `trainer.baselines.baseline.Baseline`."""
