"""The interface of a ranker, for all code that loops over the rankers."""
