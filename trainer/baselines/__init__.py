"""Methods without towers that a served model has to beat, all behind `trainer.baselines.baseline.Baseline`."""
