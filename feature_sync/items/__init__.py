"""The live catalogue: changes of items applied, and vectors of changed items for every bundle that may be served."""
