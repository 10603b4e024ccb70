"""Items that users choose together with the user's newest items."""
