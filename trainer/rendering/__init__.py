"""Jinja templates, and the function that renders them."""
