"""Brings user state and user vectors into the online store."""
