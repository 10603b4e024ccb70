"""Drift: whether recent events, and the champion's output for them, still resemble those of a reference window."""
