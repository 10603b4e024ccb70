"""The online half: answers `Recommend` from a bundle, the online store, and nothing else."""
