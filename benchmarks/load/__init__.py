"""Load on a server, and the measurements taken while it runs."""
