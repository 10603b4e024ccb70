"""A shadow: another model answers a share of the requests once more, after the reply, and the answers are compared."""
