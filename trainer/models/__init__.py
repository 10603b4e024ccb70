"""The towers and their losses."""
