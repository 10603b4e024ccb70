"""Retrieval sources beside the two towers, each in its own folder; `all_sources.SOURCES` lists them."""
