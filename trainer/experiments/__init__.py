"""Whatever trains models in order to measure: protocols, seeds, replay, tuning, comparison with baselines."""
