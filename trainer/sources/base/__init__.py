"""The interface of a retrieval source, for all code that loops over the sources."""
