"""Prepared data in memory: the data set, its splits, its evaluation parts, and Parquet files."""
