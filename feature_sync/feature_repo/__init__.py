"""The feature repository: what `feast apply` registers. Feast imports every file of this folder: keep scripts out."""
