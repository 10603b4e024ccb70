"""The user tower and the item tower of a bundle, and the text encoder that the item tower needs."""
