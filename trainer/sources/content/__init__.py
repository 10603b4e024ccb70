"""Items whose texts and categories are similar to those of the user's newest items."""
