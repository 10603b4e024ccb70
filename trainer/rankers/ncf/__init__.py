"""Neural collaborative filtering over the candidates."""
