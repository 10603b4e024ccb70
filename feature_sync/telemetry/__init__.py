"""The metrics of feature_sync."""
