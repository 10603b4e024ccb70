"""What people do beside the running service: look at users, items and dead letters, and replay or drop the latter."""
