"""Simulated logs whose judged policy is known: whether the intervals cover the truth, and how long a log must be."""
