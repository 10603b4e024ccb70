"""Policies: how each scenario is answered, from one YAML file that is reloaded when it changes."""
