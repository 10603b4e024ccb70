"""One training run, from a file of interactions to a registered model."""
