"""Measures the sources that know pairs of items, without towers and beside them."""
