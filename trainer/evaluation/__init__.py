"""Measures the quality of the lists that a model would serve."""
