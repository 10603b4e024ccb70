"""The bottom layer, which every room may import: settings, errors, and how a wrong configuration is described."""
