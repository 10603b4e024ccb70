"""Proof of the canary: planted bad versions on a real server, and simulated canaries."""
