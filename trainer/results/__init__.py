"""Writes measurements: evaluations as files, comparisons as Markdown tables."""
