"""The items that a model recommends from: its bundle's, with the live items around them, and filters over both."""
