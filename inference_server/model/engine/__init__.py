"""The engines: `index` is the only module that imports faiss."""
