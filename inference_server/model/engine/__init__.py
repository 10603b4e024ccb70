"""The engines: `onnx` is the only module that imports onnxruntime, `index` the only one that imports faiss."""
