"""Experiments: flag definitions as Unleash writes them, from a file or from Unleash, and the table made from them."""
