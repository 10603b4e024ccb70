"""Items that users choose after the user's newest items."""
