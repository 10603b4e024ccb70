"""Search of vectors with FAISS: exact search, and the index of a bundle."""
