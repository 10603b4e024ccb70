"""Prepared data in memory: the data set, its splits into train, validation and test, and Parquet files."""
