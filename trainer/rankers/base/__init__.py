"""What a ranker is, to everything that loops over them."""
