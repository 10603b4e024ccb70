"""What a retrieval source is, to everything that loops over them."""
