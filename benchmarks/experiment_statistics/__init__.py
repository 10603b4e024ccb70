"""Experiments whose truth is known, analysed at every look: how often the verdict is wrong, and how often it finds."""
