"""Drift: whether recent events, and what the champion makes of them, still look like those of a reference window."""
