"""Retrieval sources: the places that candidates come from."""
