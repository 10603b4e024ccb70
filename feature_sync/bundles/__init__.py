"""Bundles from the MLflow registry: fetched once, and followed while the service runs."""
