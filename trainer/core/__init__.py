"""The bottom layer, which every folder may import: settings, errors, and descriptions of configuration problems."""
