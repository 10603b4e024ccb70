"""Retrieval sources beside the two towers, a folder for each; `all_sources.SOURCES` lists them."""
