"""What was applied, as Parquet files by day, for training and for the feature store."""
