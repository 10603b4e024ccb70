"""The supervisor process: it follows the registry, has bundles checked, starts workers and rolls bundles out."""
