"""The native engines: `towers` is the only module that imports onnxruntime, `index` the only one that imports faiss."""
