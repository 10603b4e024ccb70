"""Checks of what is shipped: the wheel, and the pages that are written from the code."""
