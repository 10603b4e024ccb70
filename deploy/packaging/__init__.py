"""Checks of what is shipped: the wheel, and the page of settings."""
