"""Trains models in order to measure them: protocols, seeds, replay, tuning, comparison with baselines."""
