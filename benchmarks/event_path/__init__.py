"""The path of an event: how many are applied, and how soon an answer shows them."""
