"""Load on a server, and what is measured while it runs."""
