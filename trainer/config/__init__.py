"""The configuration of a training run, and its help."""
