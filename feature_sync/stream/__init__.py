"""Streams of events and of item changes, as feature_sync reads them: sources, and the loop that applies entries."""
