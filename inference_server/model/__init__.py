"""One bundle, opened to answer with."""
