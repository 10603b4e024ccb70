"""The bottom layer, which every room may import: settings and errors."""
