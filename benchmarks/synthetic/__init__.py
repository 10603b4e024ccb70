"""Synthetic catalogues as real bundles, and their users."""
