"""Retrieval sources. `registry.SOURCES` is the table of them, in the order in which their candidates are merged."""
