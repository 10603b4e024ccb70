"""How good a model is, measured on what it would serve."""
