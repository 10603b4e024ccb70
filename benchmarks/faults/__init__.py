"""Faults of the whole stack under load: which answers fail, and whether an acknowledged event is lost or doubled."""
