"""The items of a bundle with the live items around them, and filters over both."""
