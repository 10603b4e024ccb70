"""The items that a model recommends from, the bundle's items and the live items, and filters over both."""
